"""Versions below a prefix of an object store, from which services take them.

<prefix>/v-0000000012/<files>         put first
<prefix>/v-0000000012/manifest.json   put last: the version is there from then on
"""

from collections.abc import Iterator

from storage.fsops import translated
from storage.names import MANIFEST
from storage.object_members import ObjectMembers
from storage.objects import ObjectStore
from storage.places import ObjectPath
from storage.versions import is_version

_PIECE_BYTES = 1 << 20


class ObjectVersions:
    """The versions of a prefix; safe for one thread.

    Raises ConfigError where the environment has no credentials, SnapshotError where the store
    cannot be read.
    """

    def __init__(self, place: ObjectPath) -> None:
        self.place = place
        self._store = ObjectStore.at_hand()
        self._complete: set[str] = set()

    def names(self) -> list[str]:
        """Returns the names of those that are complete, sorted."""
        with translated("list the versions", self.place):
            names = [name for name in self._store.folders(self.place) if is_version(name)]
            if not names:  # a listing does not tell a bucket that is empty from one there is not
                self._store.read(self.place / MANIFEST)
            # A version does not change once it is there, and looking at each costs a request.
            self._complete = {name for name in names if self._has_manifest(name)}
        return sorted(self._complete)

    def manifest(self, name: str) -> bytes:
        """Returns the bytes of a version's manifest."""
        return ObjectMembers(self.place / name).manifest()

    def pieces(self, name: str, file: str, offset: int) -> Iterator[bytes]:
        """Yields the bytes of a file of a version from an offset on."""
        with translated("read a version", self.place / name):
            opened = self._store.open(self.place / name / file)
            buffer = memoryview(bytearray(_PIECE_BYTES))
            try:
                while count := opened.read(buffer, offset):
                    yield bytes(buffer[:count])
                    offset += count
            finally:
                opened.close()

    def _has_manifest(self, name: str) -> bool:
        return name in self._complete or MANIFEST in self._store.sizes(self.place / name)
