"""Writing a bundle: into a fresh directory, synced, then renamed into place in one step.

    .<name>.<attempt>.<nonce>.tmp/      made
      00000-<tensor>.safetensors ...    written and synced, by threads
      <files>
      manifest.json                     written last and synced
    .<name>.<attempt>.<nonce>.tmp/      synced
    <name>/                             renamed, never over anything
    <parent>/                           synced

So `<name>` is complete whenever it exists, and a crash leaves at most a directory whose name tells
which attempt it belongs to. Any error is the end of the bundle: nothing is retried.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from features.errors import SnapshotError
from storage import canonical
from storage.budget import ByteBudget
from storage.digests import FileDigest
from storage.fsops import DISK, Disk, remove_quietly, translated, write_all
from storage.manifest import (
    FileEntry,
    Kind,
    Manifest,
    PartEntry,
    TensorEntry,
    check_limits,
    check_manifest,
    encode_manifest,
)
from storage.names import MANIFEST, TENSOR_SUFFIX, check_name, slug, temporary_path
from storage.tensors import (
    BLOCK_BYTES,
    MAX_PART_BYTES,
    dtype_name,
    is_shape,
    plan_parts,
    serialized,
)

logger = logging.getLogger(__name__)

# Smaller tensors share a file: each file costs a sync and at least a page.
SMALL_BYTES = 2**20
PACK_BYTES = 16 * 2**20
PACK_TENSORS = 2048


class BundleWriter:
    """A bundle that is being written; as a context, it removes what was not published.

    `threads` write and hash files side by side. `copy_budget` is the memory that copies made by
    `add_tensor(copy=True)` may take up.
    """

    def __init__(
        self,
        parent: Path,
        name: str,
        kind: Kind,
        attempt: str,
        parent_digest: str | None = None,
        *,
        threads: int = 1,
        copy_budget: int = 0,
        part_bytes: int = MAX_PART_BYTES,
        disk: Disk = DISK,
    ) -> None:
        check_name("attempt", attempt)
        self.name = check_name("bundle", name)
        self.path = parent / name
        self.size_bytes = 0
        self._kind: Kind = kind
        self._attempt = attempt
        self._parent_digest = parent_digest
        self._part_bytes = min(part_bytes, MAX_PART_BYTES)
        self._disk = disk
        self._budget = ByteBudget(copy_budget)
        self._stop = threading.Event()
        # Copies are made while the caller waits, so nothing competes with them: threads begin when
        # the copies are done, the budget is used up, or something is written without a copy.
        self._begin = threading.Event()
        self.is_published = False
        self._jobs: list[Future[FileEntry]] = []
        self._tensors: dict[str, TensorEntry] = {}
        self._files: set[str] = set()
        self._pack: dict[str, np.ndarray] = {}
        self._num_files = 0
        self._manifest_bytes = 0
        self._directory = temporary_path(parent, name, attempt)
        with translated("begin a bundle", parent):
            disk.make_directory(self._directory)
        self._pool = ThreadPoolExecutor(threads, "bundle")

    def add_tensor(self, name: str, array: np.ndarray, *, copy: bool = False) -> None:
        """Writes an array of any strides.

        Returns when it is written; with `copy`, when what is not written yet is copied, so that the
        caller may change it. A part that is larger than the whole copy budget is written at once.
        """
        check_name("tensor", name)
        if name in self._tensors:
            raise SnapshotError(f'tensor "{name}" was added twice', "give each its own name")
        dtype = dtype_name(array.dtype, name)
        if not is_shape(array.shape, array.dtype.itemsize):
            raise SnapshotError(f'tensor "{name}" has the shape {array.shape}', "use fewer axes")
        if array.nbytes <= min(SMALL_BYTES, self._part_bytes):
            self._add_small(name, dtype, array)
            return
        waiting = []
        parts = []
        for first, rows in plan_parts(array.shape, array.itemsize, self._part_bytes, name):
            file = self._next_file(name)
            parts.append(PartEntry(file=file, first_row=first, rows=rows))
            self._reserve(200, array.nbytes)
            self._raise_failed()
            piece = array[first : first + rows]
            if copy and piece.nbytes <= self._budget.limit:
                if not self._budget.has(piece.nbytes):
                    self._begin.set()
                self._budget.take(piece.nbytes)
                # No name for the copy: it must go when its job ends, not when the next is made.
                self._submit_tensors(file, {name: np.array(piece, order="C")}, piece.nbytes)
            else:
                waiting.append(self._submit_tensors(file, {name: piece}))
        self._tensors[name] = TensorEntry(
            name=name, dtype=dtype, shape=array.shape, parts=tuple(parts)
        )
        if waiting:
            self._begin.set()
        for job in waiting:
            self._result(job)

    def add_file(self, name: str, data: bytes) -> None:
        """Writes a small file beside the tensors."""
        check_name("file", name)
        if name == MANIFEST or name.endswith(TENSOR_SUFFIX) or name in self._files:
            raise SnapshotError(f'file "{name}" is taken in a bundle', "give it another name")
        self._files.add(name)
        self._submit(name, lambda: iter([memoryview(data)]))

    def finish(self) -> None:
        """Hands to the threads what is left; nothing may be added after it.

        `seal` does it too, but a thread that outlives the interpreter's end may start no work.
        """
        self._flush_pack()
        self._begin.set()

    def seal(self, content: Mapping[str, Any]) -> str:
        """Waits for all files and writes the manifest; returns its sha256."""
        self.finish()
        files = sorted((self._result(job) for job in self._jobs), key=lambda entry: entry.name)
        manifest = Manifest(
            kind=self._kind,
            attempt=self._attempt,
            parent=self._parent_digest,
            files=tuple(files),
            tensors=tuple(self._tensors[name] for name in sorted(self._tensors)),
            content=canonical.plain(dict(content), "content"),
        )
        where = f'the manifest of "{self.path}"'
        check_manifest(manifest, where)
        data = encode_manifest(manifest, where)
        self.size_bytes = sum(entry.size for entry in files) + len(data)
        self._write(MANIFEST, lambda: iter([memoryview(data)]))
        with translated("sync a bundle", self.path.parent):
            self._disk.sync_directory(self._directory)
        self._pool.shutdown()
        return hashlib.sha256(data).hexdigest()

    def publish(self) -> None:
        """Renames the sealed bundle into place; SnapshotError where something has its name."""
        parent = self.path.parent
        try:
            with translated("publish a bundle", parent):
                self._disk.rename_new(self._directory, self.path)
                self._directory = self.path
                self._disk.sync_directory(parent)
        except SnapshotError as exc:
            if isinstance(exc.__cause__, FileExistsError):
                raise SnapshotError(
                    f'"{self.path}" exists already', "nothing is overwritten: use another name"
                ) from exc.__cause__
            raise
        self.is_published = True

    def commit(self, content: Mapping[str, Any]) -> str:
        """Seals and publishes; returns the sha256 of the manifest."""
        digest = self.seal(content)
        self.publish()
        return digest

    def discard(self) -> None:
        """Removes what this writer wrote, published or not; errors are only logged."""
        self._stop.set()
        self._begin.set()
        self._pool.shutdown(cancel_futures=True)
        if self._directory == self.path:
            self._directory = temporary_path(self.path.parent, self.name, self._attempt)
            with suppress(OSError):
                self._disk.rename_new(self.path, self._directory)
        if not remove_quietly(self._disk, self._directory):
            logger.warning('could not remove "%s"; the next start will', self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.is_published:
            self.discard()

    def _add_small(self, name: str, dtype: str, array: np.ndarray) -> None:
        is_full = sum(other.nbytes for other in self._pack.values()) + array.nbytes > min(
            PACK_BYTES, self._part_bytes
        )
        if self._pack and (is_full or len(self._pack) == PACK_TENSORS):
            self._flush_pack()
        if not self._pack:
            self._pack_file = self._next_file("small")
        self._reserve(100, 0)
        self._pack[name] = np.array(array, order="C")
        rows = array.shape[0] if array.shape else 1
        part = PartEntry(file=self._pack_file, first_row=0, rows=rows)
        self._tensors[name] = TensorEntry(name=name, dtype=dtype, shape=array.shape, parts=(part,))

    def _flush_pack(self) -> None:
        if self._pack:
            self._submit_tensors(self._pack_file, self._pack)
            self._pack = {}

    def _next_file(self, name: str) -> str:
        file = f"{self._num_files:05d}-{slug(name)}{TENSOR_SUFFIX}"
        self._num_files += 1
        return file

    def _reserve(self, entry_bytes: int, size_bytes: int) -> None:
        """Refuses a bundle whose manifest gets too large before it is written, not after."""
        crcs = min(size_bytes, self._part_bytes) * 4 // 3 * 4 // BLOCK_BYTES
        self._manifest_bytes += crcs + entry_bytes  # at least that much
        check_limits(self._manifest_bytes, 2 * self._num_files, f'the manifest of "{self.path}"')

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
                return self._write(file, chunks)
            except BaseException:
                self._stop.set()
                raise
            finally:
                self._budget.give(borrowed)

        job = self._pool.submit(work)
        self._jobs.append(job)
        return job

    def _write(self, file: str, chunks: Callable[[], Iterator[memoryview]]) -> FileEntry:
        digest = FileDigest()
        with translated("write a bundle", self.path.parent):
            descriptor = self._disk.create(self._directory / file)
            try:
                for chunk in chunks():
                    if self._stop.is_set():
                        raise CancelledError
                    digest.update(chunk)
                    write_all(self._disk, descriptor, chunk)
                self._disk.sync(descriptor)
            finally:
                self._disk.close(descriptor)
        return FileEntry(name=file, size=digest.size, sha256=digest.sha256(), crc32=digest.crc32())

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
