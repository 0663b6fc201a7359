"""Making deltas, and versions out of them: what comes out is proved by its digest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import SnapshotError
from storage.drafts import held
from storage.fsops import DISK, Disk
from storage.nowhere import Nowhere
from storage.snapshot import DELTA, ROWS, Snapshot
from storage.snapshot_delta import NUMBERS, Chain, Link, open_chain
from storage.snapshot_record import SNAPSHOT
from storage.snapshot_writer import (
    Encoder,
    OnRows,
    Source,
    Written,
    make_room,
    seal_rows,
    seal_snapshot,
)
from storage.streamed import write_streamed
from storage.versions import DELTA_SUFFIX, check_version
from storage.writer import BundleWriter

_MAX_NARROW = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDelta:
    """A delta that was written."""

    path: Path
    digest: str
    """sha256 of the manifest of the whole version."""
    rows: int
    changed: int
    size_bytes: int
    full_bytes: int
    """What the whole version takes."""


def write_delta(
    parent_directory: Path,
    name: str,
    source: Source,
    parent: Snapshot,
    *,
    threads: int = 1,
    on_rows: OnRows = lambda _: None,
    disk: Disk = DISK,
) -> WrittenDelta:
    """Writes what version `name` changes of `parent` as `NAME.delta`.

    The rows are encoded twice: once to compare and to know the digest of the whole, once to write
    those that changed. Only the numbers of these are in memory. Raises SnapshotError where layout
    or codec are not the parent's.
    """
    check_version(name)
    _check_same(source, parent)
    changed: list[NDArray[np.int64]] = [np.empty(0, np.int64)]

    def compare(first: int, raw: NDArray[np.uint8]) -> None:
        differs = (raw != parent.rows[first : first + len(raw)]).any(axis=1)
        changed.append(first + np.flatnonzero(differs))

    whole = BundleWriter(parent_directory, name, "snapshot", source.attempt, disk=Nowhere())
    try:
        digest, record = seal_snapshot(
            whole, source, threads=threads, on_rows=on_rows, on_block=compare
        )
    finally:
        whole.discard()
    numbers = np.concatenate(changed)
    link = Link(
        parent=parent.name,
        parent_digest=parent.digest,
        digest=digest,
        rows=source.layout.rows,
        changed=len(numbers),
    )
    narrow = np.uint32 if source.layout.rows <= _MAX_NARROW else np.int64
    size_bytes = len(numbers) * (source.codec.row_bytes + np.dtype(narrow).itemsize)
    file = f"{name}{DELTA_SUFFIX}"
    make_room(parent_directory, file, size_bytes + sum(map(len, source.files.values())), disk)
    with (
        BundleWriter(
            parent_directory, file, "snapshot", source.attempt, parent.digest, disk=disk
        ) as writer,
        held(writer.directory, disk),
    ):
        picked = _Picked(Encoder(source, threads), numbers, source)
        shape = (len(numbers), source.codec.row_bytes)
        rows = write_streamed(writer.parts, ROWS, shape, np.dtype(np.uint8), picked.blocks)
        writer.add_tensor(NUMBERS, numbers.astype(narrow))
        for each, data in source.files.items():
            writer.add_file(each, data)
        writer.seal({SNAPSHOT: record.to_json(), DELTA: link.model_dump(mode="json")}, [rows])
        writer.publish()
    return WrittenDelta(
        path=parent_directory / file,
        digest=digest,
        rows=link.rows,
        changed=link.changed,
        size_bytes=writer.size_bytes,
        full_bytes=whole.size_bytes,
    )


def apply_delta(path: Path, out: Path | None = None, *, disk: Disk = DISK) -> Written:
    """Writes the whole version a delta leads to, beside it or into the directory `out`.

    Raises SnapshotError where the version exists, or a parent is missing or another, or the result
    would not be the version that was exported.
    """
    with open_chain(path) as chain:
        directory, record = out or path.parent, chain.last.record
        make_room(directory, record.name, record.rows * record.row_bytes, disk)
        attempt = chain.last.bundle.manifest.attempt
        with (
            BundleWriter(directory, record.name, "snapshot", attempt, disk=disk) as writer,
            held(writer.directory, disk),
        ):
            digest = _seal(writer, chain)
            writer.publish()
    return Written(
        name=record.name,
        path=writer.path,
        digest=digest,
        size_bytes=writer.size_bytes,
        error=record.error,
    )


def prove_delta(path: Path) -> str:
    """Returns the digest of the whole version, once base and deltas were shown to give it.

    Raises SnapshotError where they do not.
    """
    with open_chain(path) as chain:
        attempt = chain.last.bundle.manifest.attempt
        writer = BundleWriter(path.parent, chain.last.name, "snapshot", attempt, disk=Nowhere())
        try:
            return _seal(writer, chain)
        finally:
            writer.discard()


def _seal(writer: BundleWriter, chain: Chain) -> str:
    last = chain.last
    names = [entry.name for entry in last.bundle.files if not entry.name.endswith(".safetensors")]
    files = {name: last.bundle.file(name) for name in names}
    base = chain.base
    digest, _ = seal_rows(writer, base.layout, base.codec, files, chain.blocks, lambda: last.record)
    if digest != last.link.digest:
        raise SnapshotError(
            f'"{last.path}" and what it stands on do not give the version that was exported:'
            f" {digest[:12]}... instead of {last.link.digest[:12]}...",
            "export the version in full",
        )
    return digest


def _check_same(source: Source, parent: Snapshot) -> None:
    """Raises SnapshotError unless a source keeps layout and codec of the parent."""
    mine, theirs = source.layout.vocabularies(), parent.layout.vocabularies()
    same = source.layout.to_json() == parent.layout.to_json() and all(
        np.array_equal(keys, theirs[name]) for name, keys in mine.items()
    )
    if not same:
        raise SnapshotError(
            f'"{parent.path}" has other features, rows or hash functions: a delta keeps them',
            "export the version in full",
        )
    if not source.codec.matches(parent.codec):
        raise SnapshotError(
            f'"{parent.path}" stores its rows by {parent.codec.text}, with what that learned: a'
            f" delta by {source.codec.text} cannot stand on it",
            "leave --codec out, which keeps the parent's, or export in full",
        )


class _Picked:
    """Gives the changed rows in order, encoded in the same blocks as all rows are."""

    def __init__(self, encoder: Encoder, numbers: NDArray[np.int64], source: Source) -> None:
        self._encoder = encoder
        self._numbers = numbers
        self._rows = self._all(source.layout.rows)
        self._left = np.empty((0, source.codec.row_bytes), np.uint8)

    def blocks(self, first: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the changed rows numbered [first, end) among themselves; asked for in order."""
        missing = end - first
        while missing:
            if not len(self._left):
                self._left = next(self._rows)
            piece, self._left = self._left[:missing], self._left[missing:]
            missing -= len(piece)
            yield piece

    def _all(self, num_rows: int) -> Iterator[NDArray[np.uint8]]:
        for low, high in self._encoder.cut(0, num_rows):
            begin, end = np.searchsorted(self._numbers, [low, high])
            if begin < end:
                _, raw = self._encoder.encode(low, high)
                yield raw[self._numbers[begin:end] - low]
