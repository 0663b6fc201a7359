"""The files in a bundle's directory, each opened only while it is what it was."""

import os
import stat
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from features.errors import SnapshotError
from storage.canonical import read_small
from storage.digests import check_sha256
from storage.fsops import Disk, read_all, translated
from storage.manifest import MAX_MANIFEST_BYTES, FileEntry
from storage.mapping import Mapping, can_join, page_start
from storage.names import MANIFEST
from storage.places import Place

_MAX_THREADS = 4
COPY = "take it from a copy, or use another checkpoint or snapshot"
_ODD_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Bytes of a file: its name, the offset of the first, how many.
Range = tuple[str, int, int]

# What tells a file from another of its name, and from itself after somebody wrote to it.
_Identity = tuple[int, int, int, int, int]


class Members(Protocol):
    """The files of a bundle, wherever they lie."""

    @property
    def path(self) -> Place:
        """Where they lie."""

    @property
    def reads_headers_ahead(self) -> bool:
        """Whether opening reads the headers of all tensor files."""

    def manifest(self) -> bytes:
        """Returns the bytes of the manifest."""

    def check(self, files: Sequence[FileEntry]) -> None:
        """Raises SnapshotError unless exactly these files are there, each of its size."""

    def check_contents(self, files: Sequence[FileEntry], threads: int | None) -> None:
        """Raises SnapshotError unless every file has its sha256."""

    def opened(self, name: str) -> AbstractContextManager[int]:
        """Opens a file that was checked; yields what `read` takes."""

    def read(self, descriptor: int, name: str, buffer: memoryview, offset: int) -> None:
        """Fills `buffer` from an offset of an opened file."""

    def can_join(self, ranges: Sequence[Range]) -> bool:
        """Whether `array` can give these ranges as one."""

    def array(self, ranges: Sequence[Range]) -> np.ndarray:
        """Returns the bytes of ranges one behind the other, as a read-only array."""

    def close(self) -> None:
        """Lets the place go; arrays that were given out stay valid."""


class DirectoryMembers:
    """An open directory and the identity of each file seen in it."""

    reads_headers_ahead = True

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self._identities: dict[str, _Identity] = {}
        try:
            status = disk.status(path)
        except OSError as exc:
            raise SnapshotError(
                f'there is no checkpoint or snapshot at "{path}": {exc.strerror}', "check the path"
            ) from exc
        if not stat.S_ISDIR(status.st_mode):
            kind = _ODD_KINDS.get(stat.S_IFMT(status.st_mode), "a file")
            raise SnapshotError(
                f'"{path}" is {kind}, not the directory of a bundle', "give the directory itself"
            )
        with translated("open the bundle", path):
            self._directory = disk.open_directory(path)
        self._close = weakref.finalize(self, disk.close, self._directory)
        self._device = os.fstat(self._directory).st_dev

    def manifest(self) -> bytes:
        """Returns the bytes of the manifest."""
        where = f'"{self.path / MANIFEST}"'
        size = self._check(MANIFEST)
        if size > MAX_MANIFEST_BYTES:
            raise SnapshotError(
                f"{where} has {size:,} bytes; at most {MAX_MANIFEST_BYTES:,} are read", COPY
            )
        with self.opened(MANIFEST) as descriptor, translated("read the manifest", self.path):
            return read_small(self._disk, descriptor, size, MAX_MANIFEST_BYTES, where)

    def check(self, files: Sequence[FileEntry]) -> None:
        """Raises SnapshotError unless exactly these files are there, each of its size."""
        with translated("list the bundle", self.path):
            found = set(self._disk.names(self._directory))
        known = {entry.name for entry in files} | {MANIFEST}
        for name in sorted(found - known):
            raise SnapshotError(
                f'"{self.path / name}" is foreign: the manifest of the bundle does not name it',
                "move it elsewhere, or take the bundle from a copy",
            )
        for entry in files:
            size = self._check(entry.name)
            if size != entry.size:
                raise SnapshotError(
                    f'"{self.path / entry.name}" has {size:,} bytes instead of {entry.size:,}',
                    COPY,
                )

    def check_contents(self, files: Sequence[FileEntry], threads: int | None) -> None:
        """Raises SnapshotError unless every file has its sha256."""
        threads = threads or min(_MAX_THREADS, os.cpu_count() or 1)
        if threads == 1 or len(files) < 2:
            for entry in files:
                self._check_content(entry)
            return
        # The largest first, so that no thread is left alone with one at the end.
        ordered = sorted(files, key=lambda entry: (-entry.size, entry.name))
        with ThreadPoolExecutor(threads, "verify") as pool:
            futures = [pool.submit(self._check_content, entry) for entry in ordered]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Opens a file that was checked, and is still the same; yields its descriptor."""
        with translated(f'open "{name}"', self.path):
            descriptor = self._disk.open_file(name, self._directory)
        try:
            if _identity(os.fstat(descriptor)) != self._identities[name]:
                raise SnapshotError(
                    f'"{self.path / name}" changed after the bundle was opened',
                    "nothing may write into a bundle; open it again",
                )
            yield descriptor
        finally:
            self._disk.close(descriptor)

    def read(self, descriptor: int, name: str, buffer: memoryview, offset: int) -> None:
        """Fills `buffer` from an offset of an opened file."""
        with translated(f'read "{name}"', self.path):
            count = read_all(self._disk, descriptor, buffer, offset)
        if count < len(buffer):
            raise SnapshotError(f'"{self.path / name}" was cut while it was read', COPY)

    def can_join(self, ranges: Sequence[Range]) -> bool:
        """Whether ranges can be mapped one behind the other: all but the ends are whole pages."""
        return can_join([(offset, size) for _, offset, size in ranges])

    def array(self, ranges: Sequence[Range]) -> np.ndarray:
        """Maps ranges one behind the other, without a copy; the first may begin inside a page."""
        first = ranges[0][1]
        lead = first - page_start(first)
        mapping = Mapping(lead + sum(size for _, _, size in ranges))
        for name, offset, size in ranges:
            with self.opened(name) as descriptor, translated("map a file", self.path):
                front = 0 if mapping.size_done else lead
                mapping.add(descriptor, offset - front, size + front)
        return mapping.array()[lead:]

    def close(self) -> None:
        """Closes the directory."""
        self._close()

    def _check(self, name: str) -> int:
        """Notes the identity of a file and returns its size; refuses what is no plain file."""
        where = f'"{self.path / name}"'
        try:
            status = self._disk.status(name, self._directory)
        except FileNotFoundError as exc:
            raise SnapshotError(f"{where} is missing", COPY) from exc
        except OSError as exc:
            raise SnapshotError(f"{where} cannot be read: {exc.strerror}", COPY) from exc
        kind = _ODD_KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is not None:
            raise SnapshotError(f"{where} is {kind}, not a file of the bundle", COPY)
        if status.st_nlink != 1:
            raise SnapshotError(
                f"{where} is a hard link: {status.st_nlink} names share its bytes",
                "copy the bundle without links (cp -r)",
            )
        if status.st_dev != self._device:
            raise SnapshotError(f"{where} lies on another file system than its bundle", COPY)
        self._identities[name] = _identity(status)
        return status.st_size

    def _check_content(self, entry: FileEntry) -> None:
        with self.opened(entry.name) as descriptor, translated("read the bundle", self.path):
            where = f'"{self.path / entry.name}"'
            check_sha256(self._disk, descriptor, entry.size, entry.sha256, where)


def _identity(status: os.stat_result) -> _Identity:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
