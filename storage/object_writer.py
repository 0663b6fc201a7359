"""Writing a bundle into an object store: data objects first, the manifest last, if there is none.

An object that was cut short by an error may be there all the same. Nothing names it then, as only
what was written whole gets into a manifest; and before that is put, the sizes are compared.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.errors import SnapshotError
from storage.fsops import translated
from storage.manifest import FileEntry, Kind, Parts
from storage.names import MANIFEST, name_taken
from storage.objects import ObjectStore
from storage.parts import PartsWriter
from storage.places import ObjectPath
from storage.writer import sealed

logger = logging.getLogger(__name__)


class ObjectPartsWriter(PartsWriter):
    """Writes the objects of a bundle side by side."""

    def __init__(
        self,
        path: ObjectPath,
        store: ObjectStore,
        *,
        prefix: str = "",
        threads: int = 1,
        copy_budget: int = 0,
    ) -> None:
        super().__init__(path, path.parent, prefix=prefix, threads=threads, copy_budget=copy_budget)
        self._path = path
        self._store = store

    def put(self, file: str, chunks: Iterator[memoryview]) -> None:
        """Writes one object."""
        self._store.write(self._path / file, chunks)


class ObjectDraft:
    """A bundle that is being written to an object store."""

    def __init__(
        self,
        path: ObjectPath,
        store: ObjectStore,
        kind: Kind,
        attempt: str,
        parent_digest: str | None,
        *,
        threads: int,
        copy_budget: int,
    ) -> None:
        self.path = path
        self.size_bytes = 0
        self.is_published = False
        self.parts: PartsWriter = ObjectPartsWriter(
            path, store, threads=threads, copy_budget=copy_budget
        )
        self._store = store
        self._kind: Kind = kind
        self._attempt = attempt
        self._parent_digest = parent_digest
        self._manifest = b""
        self._files: tuple[FileEntry, ...] = ()

    @property
    def name(self) -> str:
        """The name of the bundle."""
        return self.path.name

    @property
    def label(self) -> str:
        """The same: there is no other directory."""
        return self.path.name

    def seal(self, content: Mapping[str, Any], others: Sequence[Parts] = ()) -> str:
        """Waits for all objects and makes the manifest; returns its sha256."""
        made = sealed(
            self._kind,
            self._attempt,
            self._parent_digest,
            [self.parts.parts(), *others],
            content,
            f'the manifest of "{self.path}"',
        )
        self._manifest, self._files = made.data, made.files
        self.size_bytes = made.size_bytes
        return made.digest

    def publish(self) -> None:
        """Puts the manifest; SnapshotError where an object is not as written or one is there."""
        with translated("publish a bundle", self.path.parent):
            sizes = self._store.sizes(self.path)
            for entry in self._files:
                if sizes.get(entry.name) != entry.size:
                    raise SnapshotError(
                        f'"{self.path / entry.name}" has {sizes.get(entry.name, 0):,} bytes,'
                        f" {entry.size:,} were written",
                        "check the object store",
                    )
            if self._store.put_if(self.path / MANIFEST, self._manifest, None) is None:
                raise name_taken(self.path)
        self.is_published = True

    def discard(self) -> None:
        """Removes what was written, the manifest first; errors are only logged."""
        self.parts.stop()
        try:
            if self.is_published:
                self._store.remove(self.path / MANIFEST)
            for name in self._store.sizes(self.path):
                self._store.remove(self.path / name)
        except OSError as exc:
            logger.warning('could not remove "%s"; the next start will: %s', self.path, exc)
