"""Writing a snapshot: rows out of anything that gives them by ranges, encoded block by block.

What is written is a function of the rows, the layout, the codec, the lineage and the name; the
manifest's attempt token is made of the checkpoint's digest. So the same checkpoint exported twice,
anywhere, is the same bytes. At most a few MiB of rows are in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.errors import CodecError
from features.routing import Layout
from storage.attempts import make_directories
from storage.codecs.base import Codec, ErrorSum
from storage.drafts import check_space, held, sweep
from storage.fsops import DISK, Disk, translated
from storage.manifest import Parts
from storage.names import MANIFEST, name_taken
from storage.object_writer import ObjectDraft
from storage.objects import ObjectStore
from storage.parts import PartsWriter, Sharded
from storage.places import ObjectPath, Place
from storage.probes import make_probes, probe_rows, with_digests
from storage.snapshot import CODEC_PREFIX, ROWS
from storage.snapshot_record import SNAPSHOT, Deviation, Lineage, Record, Tower
from storage.streamed import Blocks, write_streamed
from storage.tensors import MAX_PART_BYTES
from storage.versions import check_version
from storage.writer import BundleWriter

# read_rows(first, end) -> float32[end - first, width]
ReadRows = Callable[[int, int], NDArray[np.float32]]
OnRows = Callable[[int], None]
OnBlock = Callable[[int, NDArray[np.uint8]], None]

# Bytes of float32 rows that are encoded at a time.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A snapshot that was written."""

    name: str
    path: Place
    digest: str
    size_bytes: int
    error: Deviation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """What a snapshot is made of."""

    layout: Layout
    codec: Codec
    read_rows: ReadRows
    lineage: Lineage
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files beside the tensors, by name."""
    tower: Tower | None = None

    @property
    def num_bytes(self) -> int:
        """About what its files take on disk."""
        return self.layout.rows * self.codec.row_bytes + sum(map(len, self.files.values()))

    @property
    def attempt(self) -> str:
        """The token of the manifest: made of the checkpoint, so that it is the same each time."""
        return f"export-{self.lineage.checkpoint[:16]}"


class Draft(Protocol):
    """A version that is being written, to a directory or to an object store."""

    parts: PartsWriter

    @property
    def name(self) -> str:
        """The version's name."""

    def seal(self, content: Mapping[str, Any], others: Sequence[Parts] = ()) -> str:
        """Waits for all files and makes the manifest; returns its sha256."""


def write_snapshot(
    parent: Path,
    name: str,
    source: Source,
    *,
    threads: int = 1,
    part_bytes: int = MAX_PART_BYTES,
    on_rows: OnRows = lambda _: None,
    disk: Disk = DISK,
) -> Written:
    """Writes a version `name` into a directory of versions, which is made if it is missing.

    Raises SnapshotError where a version has that name or the disk has no room, CodecError naming
    the rows that cannot be encoded.
    """
    check_codec(source.layout, source.codec)
    make_room(parent, check_version(name), source.num_bytes, disk)
    with (
        BundleWriter(parent, name, "snapshot", source.attempt, disk=disk) as writer,
        held(writer.directory, disk),
    ):
        digest, record = seal_snapshot(
            writer, source, threads=threads, part_bytes=part_bytes, on_rows=on_rows
        )
        writer.publish()
    return Written(
        name=name,
        path=parent / name,
        digest=digest,
        size_bytes=writer.size_bytes,
        error=record.error,
    )


def put_snapshot(
    parent: ObjectPath,
    name: str,
    source: Source,
    *,
    threads: int = 1,
    on_rows: OnRows = lambda _: None,
) -> Written:
    """Writes a version below a prefix of an object store, the same bytes that a directory gets.

    It is there when its manifest is, which is put last. Raises SnapshotError where a version has
    that name, CodecError naming the rows that cannot be encoded. One process at a time may write a
    name.
    """
    check_codec(source.layout, source.codec)
    store = ObjectStore.at_hand()
    path = parent / check_version(name)
    with translated("look for a version", parent):
        if MANIFEST in store.sizes(path):
            raise name_taken(path)
    draft = ObjectDraft(path, store, "snapshot", source.attempt, None, threads=1, copy_budget=0)
    try:
        digest, record = seal_snapshot(draft, source, threads=threads, on_rows=on_rows)
        draft.publish()
    except BaseException:
        draft.discard()
        raise
    return Written(
        name=name, path=path, digest=digest, size_bytes=draft.size_bytes, error=record.error
    )


def check_codec(layout: Layout, codec: Codec) -> None:
    """Raises CodecError where a codec leaves out lookups that readers combine with others."""
    if layout.has_readers and codec.lookups is not None:
        raise CodecError(
            f"codec {codec.text} serves the first lookups of a value only, and this table's are "
            "combined into one vector",
            "use the codec inside it, or a table whose method lays lookups side by side",
        )


def make_room(parent: Path, name: str, size_bytes: int, disk: Disk = DISK) -> None:
    """Makes a directory ready for one more bundle; SnapshotError where there is no room for it."""
    make_directories(parent, disk)
    if (parent / name).exists():
        raise name_taken(parent / name)
    sweep(parent, disk)
    check_space(parent, size_bytes)


def seal_snapshot(
    draft: Draft,
    source: Source,
    *,
    threads: int = 1,
    part_bytes: int = MAX_PART_BYTES,
    on_rows: OnRows = lambda _: None,
    on_block: OnBlock = lambda _first, _raw: None,
) -> tuple[str, Record]:
    """Writes everything but what publishes it; returns the digest of the manifest and what it says.

    `on_block` is told of each block of encoded rows and its first row.
    """
    layout, codec = source.layout, source.codec
    encoder = Encoder(source, threads)
    probes = make_probes(layout)
    wanted = probe_rows(layout, probes)
    kept = np.empty((len(wanted), codec.row_bytes), np.uint8)
    error = ErrorSum()

    def blocks(first: int, end: int) -> Iterator[NDArray[np.uint8]]:
        for low, high in encoder.cut(first, end):
            rows, raw = encoder.encode(low, high)
            error.add(rows, codec.decode(raw, threads=threads))
            begin, stop = np.searchsorted(wanted, [low, high])
            kept[begin:stop] = raw[wanted[begin:stop] - low]
            on_block(low, raw)
            yield raw
            on_rows(high - low)

    def vectors(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return codec.decode(kept[np.searchsorted(wanted, rows)])

    def record() -> Record:
        return Record(
            name=draft.name,
            layout=layout.to_json(),
            codec=codec.to_json(),
            hash_seed=layout.hash_seed,
            rows=layout.rows,
            width=layout.width,
            row_bytes=codec.row_bytes,
            probes=tuple(with_digests(layout, probes, vectors)),
            lineage=source.lineage,
            error=_deviation(error, codec),
            tower=source.tower,
        )

    return seal_rows(draft, layout, codec, source.files, blocks, record, part_bytes)


def seal_rows(
    draft: Draft,
    layout: Layout,
    codec: Codec,
    files: Mapping[str, bytes],
    blocks: Blocks,
    record: Callable[[], Record],
    part_bytes: int = MAX_PART_BYTES,
) -> tuple[str, Record]:
    """Writes a snapshot whose rows are encoded already; `record` is asked when all were written."""
    shape = (layout.rows, codec.row_bytes)
    rows = write_streamed(draft.parts, ROWS, shape, np.dtype(np.uint8), blocks, part_bytes)
    for vocabulary, keys in layout.vocabularies().items():
        draft.parts.add(vocabulary, Sharded.whole(keys))
    for shared, array in codec.shared().items():
        draft.parts.add(f"{CODEC_PREFIX}{shared}", Sharded.whole(array))
    for file, data in files.items():
        draft.parts.add_file(file, data)
    said = record()
    return draft.seal({SNAPSHOT: said.to_json()}, [rows]), said


class Encoder:
    """Encodes rows in blocks that are the same whoever asks.

    What a codec makes of a row may depend in the last bit on the rows beside it, as products of
    matrices do.
    """

    def __init__(self, source: Source, threads: int) -> None:
        self._source = source
        self._threads = threads
        self._block_rows = max(1, _BLOCK_BYTES // (4 * source.layout.width))

    def cut(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yields the blocks (first row, end) that rows [first, end) are encoded in."""
        for low in range(first, end, self._block_rows):
            yield low, min(low + self._block_rows, end)

    def encode(self, low: int, high: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Returns the rows of a block, and encoded; CodecError naming a row that cannot be."""
        rows = self._source.read_rows(low, high)
        return rows, self._source.codec.encode(rows, self._threads, first_row=low)


def _deviation(error: ErrorSum, codec: Codec) -> Deviation:
    # Six digits: the last ones depend on how a machine adds, and the file must not.
    found = error.result()
    return Deviation(
        relative=float(f"{found.relative:.6g}"),
        largest=float(f"{found.largest:.6g}"),
        bound=codec.bound,
    )
