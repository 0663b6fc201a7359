"""Writing a snapshot: rows out of anything that gives them by ranges, encoded block by block.

What is written is a function of the rows, the layout, the codec, the lineage and the name; the
manifest's attempt token is made of the checkpoint's digest. So the same checkpoint exported twice,
anywhere, is the same bytes. At most a few MiB of rows are in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import SnapshotError
from features.routing import Layout
from storage.attempts import make_directories
from storage.codecs.base import Codec, ErrorSum
from storage.drafts import check_space, held, sweep
from storage.fsops import DISK, Disk
from storage.probes import make_probes, probe_rows, with_digests
from storage.snapshot import CODEC_PREFIX, ROWS
from storage.snapshot_record import SNAPSHOT, Deviation, Lineage, Probe, Record, Tower
from storage.streamed import write_streamed
from storage.tensors import MAX_PART_BYTES
from storage.versions import check_version
from storage.writer import BundleWriter

# read_rows(first, end) -> float32[end - first, width]
ReadRows = Callable[[int, int], NDArray[np.float32]]
OnRows = Callable[[int], None]

# Bytes of float32 rows that are encoded at a time.
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A snapshot that was written."""

    name: str
    path: Path
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
    check_version(name)
    make_directories(parent, disk)
    if (parent / name).exists():
        raise SnapshotError(
            f'"{parent / name}" exists already', "nothing is overwritten: use another name"
        )
    sweep(parent, disk)
    check_space(parent, source.num_bytes)
    with (
        BundleWriter(parent, name, "snapshot", source.attempt, disk=disk) as writer,
        held(writer.directory, disk),
    ):
        digest, error = seal_snapshot(
            writer, source, threads=threads, part_bytes=part_bytes, on_rows=on_rows
        )
        writer.publish()
    return Written(
        name=name, path=parent / name, digest=digest, size_bytes=writer.size_bytes, error=error
    )


def seal_snapshot(
    writer: BundleWriter,
    source: Source,
    *,
    threads: int = 1,
    part_bytes: int = MAX_PART_BYTES,
    on_rows: OnRows = lambda _: None,
    on_block: Callable[[int, NDArray[np.uint8]], None] = lambda _first, _raw: None,
) -> tuple[str, Deviation]:
    """Writes everything but the last rename; returns the digest of the manifest.

    `on_block` is told of each block of encoded rows and its first row.
    """
    layout, codec = source.layout, source.codec
    encoder = _Encoder(source, threads, on_rows, on_block)
    shape = (layout.rows, codec.row_bytes)
    rows = write_streamed(writer.parts, ROWS, shape, np.dtype(np.uint8), encoder.blocks, part_bytes)
    for vocabulary, keys in layout.vocabularies().items():
        writer.add_tensor(vocabulary, keys)
    for shared, array in codec.shared().items():
        writer.add_tensor(f"{CODEC_PREFIX}{shared}", array)
    for file, data in source.files.items():
        writer.add_file(file, data)
    error = encoder.deviation()
    record = Record(
        name=writer.name,
        layout=layout.to_json(),
        codec=codec.to_json(),
        hash_seed=layout.hash_seed,
        rows=layout.rows,
        width=layout.width,
        row_bytes=codec.row_bytes,
        probes=tuple(encoder.probes()),
        lineage=source.lineage,
        error=error,
        tower=source.tower,
    )
    return writer.seal({SNAPSHOT: record.to_json()}, [rows]), error


class _Encoder:
    """Encodes rows in order, and on the way measures the error and keeps what probes need."""

    def __init__(
        self,
        source: Source,
        threads: int,
        on_rows: OnRows,
        on_block: Callable[[int, NDArray[np.uint8]], None],
    ) -> None:
        self._source = source
        self._threads = threads
        self._on_rows = on_rows
        self._on_block = on_block
        self._block_rows = max(1, _BLOCK_BYTES // (4 * source.layout.width))
        self._probes = make_probes(source.layout)
        self._probe_rows = probe_rows(source.layout, self._probes)
        self._kept = np.empty((len(self._probe_rows), source.codec.row_bytes), np.uint8)
        self._error = ErrorSum()

    def blocks(self, first: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the encoded rows [first, end)."""
        for low in range(first, end, self._block_rows):
            high = min(low + self._block_rows, end)
            rows = self._source.read_rows(low, high)
            raw = self._source.codec.encode(rows, self._threads, first_row=low)
            decoded = self._source.codec.decode(raw, threads=self._threads)
            self._error.add(rows, decoded)
            self._keep(low, high, raw)
            self._on_block(low, raw)
            yield raw
            self._on_rows(high - low)

    def probes(self) -> list[Probe]:
        """Returns the probes with their digests, once all rows were encoded."""

        def vectors(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return self._source.codec.decode(self._kept[np.searchsorted(self._probe_rows, rows)])

        return with_digests(self._source.layout, self._probes, vectors)

    def deviation(self) -> Deviation:
        """Returns what the codec changed, once all rows were encoded.

        Six digits: the last ones depend on how a machine adds, and the file must not.
        """
        error = self._error.result()
        return Deviation(
            relative=float(f"{error.relative:.6g}"),
            largest=float(f"{error.largest:.6g}"),
            bound=self._source.codec.bound,
        )

    def _keep(self, low: int, high: int, raw: NDArray[np.uint8]) -> None:
        begin, end = np.searchsorted(self._probe_rows, [low, high])
        self._kept[begin:end] = raw[self._probe_rows[begin:end] - low]
