"""The objects of a bundle in an object store, read in ranges; `storage.members` for a directory."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from features.errors import SnapshotError
from storage.digests import CRC_BYTES
from storage.fsops import translated
from storage.manifest import MAX_MANIFEST_BYTES, FileEntry
from storage.members import COPY
from storage.names import MANIFEST
from storage.objects import ObjectFile, ObjectStore
from storage.places import ObjectPath

_MAX_THREADS = 4


class ObjectMembers:
    """The objects right below a prefix; read from the server each time they are asked for."""

    # A header costs a request: it is read with the first rows of its file.
    reads_headers_ahead = False

    def __init__(self, path: ObjectPath) -> None:
        self.path = path
        self._store = ObjectStore.at_hand()
        self._open: dict[int, ObjectFile] = {}
        self._count = 0

    def manifest(self) -> bytes:
        """Returns the bytes of the manifest."""
        with translated("read the manifest", self.path):
            found = self._store.read(self.path / MANIFEST)
        if found is None:
            raise SnapshotError(f'there is no checkpoint or snapshot at "{self.path}"', COPY)
        if len(found[0]) > MAX_MANIFEST_BYTES:
            raise SnapshotError(
                f'"{self.path / MANIFEST}" has {len(found[0]):,} bytes;'
                f" at most {MAX_MANIFEST_BYTES:,} are read",
                COPY,
            )
        return found[0]

    def check(self, files: Sequence[FileEntry]) -> None:
        """Raises SnapshotError unless exactly these objects are there, each of its size."""
        with translated("list the bundle", self.path):
            sizes = self._store.sizes(self.path)
        known = {entry.name for entry in files} | {MANIFEST}
        for name in sorted(sizes.keys() - known):
            raise SnapshotError(
                f'"{self.path / name}" is foreign: the manifest of the bundle does not name it',
                "move it elsewhere, or take the bundle from a copy",
            )
        for entry in files:
            if entry.name not in sizes:
                raise SnapshotError(f'"{self.path / entry.name}" is missing', COPY)
            if sizes[entry.name] != entry.size:
                raise SnapshotError(
                    f'"{self.path / entry.name}" has {sizes[entry.name]:,} bytes instead of'
                    f" {entry.size:,}",
                    COPY,
                )

    def check_contents(self, files: Sequence[FileEntry], threads: int | None) -> None:
        """Raises SnapshotError unless every object has its sha256."""
        with ThreadPoolExecutor(threads or _MAX_THREADS, "verify") as pool:
            for _ in pool.map(self._check_content, files):
                pass

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Opens an object; yields a number for `read`."""
        with translated(f'open "{name}"', self.path):
            file = self._store.open(self.path / name)
        self._count += 1
        number = self._count
        self._open[number] = file
        try:
            yield number
        finally:
            del self._open[number]
            file.close()

    def read(self, descriptor: int, name: str, buffer: memoryview, offset: int) -> None:
        """Fills `buffer` from an offset of an opened object."""
        with translated(f'read "{name}"', self.path):
            count = self._open[descriptor].read(buffer, offset)
        if count < len(buffer):
            raise SnapshotError(f'"{self.path / name}" was cut while it was read', COPY)

    def can_join(self, ranges: Sequence[tuple[str, int, int]]) -> bool:
        """Whether ranges (name, offset, size) can be had as one array: always, by copying."""
        return len(ranges) > 0

    def array(self, ranges: Sequence[tuple[str, int, int]]) -> np.ndarray:
        """Returns the bytes of ranges one behind the other, read into memory."""
        data = np.empty(sum(size for _, _, size in ranges), np.uint8)
        done = 0
        for name, offset, size in ranges:
            with self.opened(name) as descriptor:
                self.read(descriptor, name, data[done : done + size].data, offset)
            done += size
        data.flags.writeable = False
        return data

    def close(self) -> None:
        """Nothing is held between calls."""

    def _check_content(self, entry: FileEntry) -> None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(CRC_BYTES))
        with self.opened(entry.name) as descriptor:
            for offset in range(0, entry.size, CRC_BYTES):
                piece = buffer[: min(CRC_BYTES, entry.size - offset)]
                self.read(descriptor, entry.name, piece, offset)
                digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise SnapshotError(
                f'"{self.path / entry.name}" is damaged: its sha256 is not the one in the manifest',
                COPY,
            )
