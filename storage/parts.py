"""The files of a bundle that one process writes: its rows of the tensors, and small files.

A bundle may be written by several processes into one draft directory, each its own row ranges. Then
each gives its file names a prefix of its own, and hands `Parts` to the one that commits.
"""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import SnapshotError
from storage.budget import ByteBudget
from storage.digests import FileDigest
from storage.fsops import DISK, Disk, translated, write_all
from storage.manifest import FileEntry, PartEntry, Parts, TensorEntry, check_limits
from storage.names import MANIFEST, TENSOR_SUFFIX, check_name, slug
from storage.places import Place
from storage.tensors import (
    BLOCK_BYTES,
    MAX_PART_BYTES,
    dtype_name,
    is_shape,
    plan_parts,
    serialized,
)

# Smaller tensors share a file: each file costs a sync and at least a page.
SMALL_BYTES = 2**20
PACK_BYTES = 16 * 2**20
PACK_TENSORS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharded:
    """Rows of a tensor that is spread over processes."""

    array: np.ndarray
    """The rows from `first_row` on, or those that `picked` picks from it."""
    first_row: int
    num_rows: int
    """Rows of the whole tensor."""
    picked: NDArray[np.int64] | None = None
    """Which rows of `array` are meant, in this order; None means all."""

    @classmethod
    def whole(cls, array: np.ndarray) -> "Sharded":
        """Returns all rows of a tensor."""
        return cls(array=array, first_row=0, num_rows=array.shape[0] if array.shape else 1)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of the rows here."""
        return (
            self.array.shape if self.picked is None else (len(self.picked), *self.array.shape[1:])
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the rows here."""
        return math.prod(self.local_shape) * self.array.itemsize

    @property
    def nbytes_of_row(self) -> int:
        """Bytes of one row."""
        return math.prod(self.array.shape[1:]) * self.array.itemsize

    def rows(self, first: int, count: int) -> np.ndarray:
        """Returns some of the rows here: a view, or where they are picked a copy."""
        if self.picked is None:
            return self.array[first : first + count] if self.array.shape else self.array
        return self.array[self.picked[first : first + count]]

    def copy(self, first: int, count: int) -> np.ndarray:
        """Returns a copy of some of the rows here."""
        rows = self.rows(first, count)
        return np.array(rows, order="C") if self.picked is None else np.ascontiguousarray(rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return (self.num_rows, *self.array.shape[1:]) if self.array.shape else ()


class PartsWriter:
    """Writes and hashes files of a draft side by side.

    `directory` is the draft, `parent` where the bundle will stand, for messages. `copy_budget` is
    the memory that copies made by `add(copy=True)` may take up.
    """

    def __init__(
        self,
        directory: Place,
        parent: Place,
        *,
        prefix: str = "",
        threads: int = 1,
        copy_budget: int = 0,
        part_bytes: int = MAX_PART_BYTES,
        disk: Disk = DISK,
    ) -> None:
        self.directory = directory
        self._parent = parent
        self._prefix = prefix
        self._part_bytes = min(part_bytes, MAX_PART_BYTES)
        self._disk = disk
        self._budget = ByteBudget(copy_budget)
        self._stop = threading.Event()
        # Copies are made while the caller waits, so nothing competes with them: threads begin when
        # the copies are done, the budget is used up, or something is written without a copy.
        self._begin = threading.Event()
        self._jobs: list[Future[FileEntry]] = []
        self._tensors: dict[str, TensorEntry] = {}
        self._files: set[str] = set()
        self._pack: dict[str, np.ndarray] = {}
        self._num_files = 0
        self._manifest_bytes = 0
        self._pool = ThreadPoolExecutor(threads, "bundle")

    def add(self, name: str, rows: Sharded, *, copy: bool = False) -> None:
        """Writes rows of any strides.

        Returns when they are written; with `copy`, when what is not written yet is copied, so that
        the caller may change it. A part larger than the whole copy budget is written at once.
        """
        check_name("tensor", name)
        if name in self._tensors:
            raise SnapshotError(f'tensor "{name}" was added twice', "give each its own name")
        dtype = dtype_name(rows.array.dtype, name)
        if not is_shape(rows.shape, rows.array.itemsize):
            raise SnapshotError(f'tensor "{name}" has the shape {rows.shape}', "use fewer axes")
        if rows.nbytes <= min(SMALL_BYTES, self._part_bytes):
            parts = self._add_small(name, rows)
        else:
            parts = self._add_large(name, rows, copy)
        self._tensors[name] = TensorEntry(name=name, dtype=dtype, shape=rows.shape, parts=parts)

    def add_file(self, name: str, data: bytes) -> None:
        """Writes a small file beside the tensors."""
        check_name("file", name)
        if name == MANIFEST or name.endswith(TENSOR_SUFFIX) or name in self._files:
            raise SnapshotError(f'file "{name}" is taken in a bundle', "give it another name")
        self._files.add(name)
        self._submit(name, lambda: iter([memoryview(data)]))

    def finish(self) -> None:
        """Hands to the threads what is left; nothing may be added after it."""
        self._flush_pack()
        self._begin.set()

    def is_done(self, timeout_s: float) -> bool:
        """Waits at most that long; returns whether all is written, or something failed."""
        return not wait(self._jobs, timeout_s).not_done or self._stop.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether a file could not be written."""
        return self._stop.is_set()

    def parts(self) -> Parts:
        """Waits until all is written; returns it, or raises what made the first file fail."""
        self.finish()
        files = sorted((self._result(job) for job in self._jobs), key=lambda entry: entry.name)
        self._pool.shutdown()
        return Parts(
            files=tuple(files),
            tensors=tuple(self._tensors[name] for name in sorted(self._tensors)),
        )

    def write(self, file: str, chunks: Callable[[], Iterator[memoryview]]) -> FileEntry:
        """Writes one file of the draft and syncs it."""
        digest = FileDigest()

        def watched() -> Iterator[memoryview]:
            for chunk in chunks():
                if self._stop.is_set():
                    raise CancelledError
                digest.update(chunk)
                yield chunk

        with translated(f'write "{file}" of a bundle', self._parent):
            self.put(file, watched())
        return FileEntry(name=file, size=digest.size, sha256=digest.sha256(), crc32=digest.crc32())

    def put(self, file: str, chunks: Iterator[memoryview]) -> None:
        """Writes the bytes of one file so that they last; raises OSError."""
        assert isinstance(self.directory, Path)  # noqa: S101
        descriptor = self._disk.create(self.directory / file)
        try:
            for chunk in chunks:
                write_all(self._disk, descriptor, chunk)
            self._disk.sync(descriptor)
        finally:
            self._disk.close(descriptor)

    def stop(self) -> None:
        """Ends all writing; returns when no thread writes any more."""
        self._stop.set()
        self._begin.set()
        self._pool.shutdown(cancel_futures=True)

    def _add_large(self, name: str, rows: Sharded, copy: bool) -> tuple[PartEntry, ...]:
        waiting = []
        parts = []
        shape = rows.local_shape
        for first, count in plan_parts(shape, rows.array.itemsize, self._part_bytes, name):
            file = self._next_file(name)
            parts.append(PartEntry(file=file, first_row=rows.first_row + first, rows=count))
            self._reserve(200, rows.nbytes)
            self._raise_failed()
            size = count * rows.nbytes_of_row
            if copy and size <= self._budget.limit:
                if not self._budget.has(size):
                    self._begin.set()
                self._budget.take(size)
                # No name for the copy: it must go when its job ends, not when the next is made.
                self._submit_tensors(file, {name: rows.copy(first, count)}, size)
            elif rows.picked is None:
                waiting.append(self._submit_tensors(file, {name: rows.rows(first, count)}))
            else:
                # A copy outside the budget: one at a time.
                self._begin.set()
                self._result(self._submit_tensors(file, {name: rows.rows(first, count)}))
        if waiting:
            self._begin.set()
        for job in waiting:
            self._result(job)
        return tuple(parts)

    def _add_small(self, name: str, rows: Sharded) -> tuple[PartEntry, ...]:
        count = rows.local_shape[0] if rows.local_shape else 1
        if count == 0 and rows.num_rows > 0:
            return ()  # a process without rows
        is_full = sum(other.nbytes for other in self._pack.values()) + rows.nbytes > min(
            PACK_BYTES, self._part_bytes
        )
        if self._pack and (is_full or len(self._pack) == PACK_TENSORS):
            self._flush_pack()
        if not self._pack:
            self._pack_file = self._next_file("small")
        self._reserve(100, 0)
        self._pack[name] = rows.copy(0, count)
        return (PartEntry(file=self._pack_file, first_row=rows.first_row, rows=count),)

    def _flush_pack(self) -> None:
        if self._pack:
            self._submit_tensors(self._pack_file, self._pack)
            self._pack = {}

    def _next_file(self, name: str) -> str:
        file = f"{self._prefix}{self._num_files:05d}-{slug(name)}{TENSOR_SUFFIX}"
        self._num_files += 1
        return file

    def _reserve(self, entry_bytes: int, size_bytes: int) -> None:
        """Refuses a bundle whose manifest gets too large before it is written, not after."""
        crcs = min(size_bytes, self._part_bytes) * 4 // 3 * 4 // BLOCK_BYTES
        self._manifest_bytes += crcs + entry_bytes  # at least that much
        where = f'the manifest of a bundle in "{self._parent}"'
        check_limits(self._manifest_bytes, 2 * self._num_files, where)

    def _submit_tensors(
        self, file: str, arrays: dict[str, np.ndarray], borrowed: int = 0
    ) -> Future[FileEntry]:
        return self._submit(file, lambda: serialized(arrays), borrowed)

    def _submit(
        self, file: str, chunks: Callable[[], Iterator[memoryview]], borrowed: int = 0
    ) -> Future[FileEntry]:
        def work() -> FileEntry:
            try:
                self._begin.wait()
                return self.write(file, chunks)
            except BaseException:
                self._stop.set()
                raise
            finally:
                self._budget.give(borrowed)

        job = self._pool.submit(work)
        self._jobs.append(job)
        return job

    def _result(self, job: Future[FileEntry]) -> FileEntry:
        """Returns what a job wrote; raises what made the first one fail."""
        try:
            return job.result()
        except CancelledError:
            self._raise_failed()
            raise

    def _raise_failed(self) -> None:
        """Raises what made the first job fail, if one did; others only stopped because of it."""
        if self._stop.is_set():
            for job in self._jobs:
                error = job.exception() if job.done() and not job.cancelled() else None
                if error is not None and not isinstance(error, CancelledError):
                    raise error
