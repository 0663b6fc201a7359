"""A snapshot that is open: rows as a codec stores them, mapped, with what finds them.

    rows              uint8 [R, row_bytes]      a row whole: its codes, then its parameters
    codec.NAME        what the codec learned, the same for all rows
    vocabulary.N      the layout's own
    content           storage.snapshot_record
    tower.onnx        the model on top, where it was asked for

Opening verifies the files and looks the probes up. Lookups here are for checking and for tools:
they decode with the same codec as a server and pool with the same kernels as training.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features import ragged
from features.batches import KeyColumn
from features.errors import SnapshotError
from features.routing import Layout
from native import kernels
from storage.bundle import Bundle, Verify, open_bundle
from storage.codecs.base import Codec
from storage.codecs.registry import codec_from_json
from storage.fsops import DISK, Disk
from storage.probes import check_probes
from storage.snapshot_record import Record, record_in
from storage.tensors import DTYPES
from storage.vectors import combined, pool

ROWS = "rows"
DELTA = "snapshot_delta"
CODEC_PREFIX = "codec."
VOCABULARY_PREFIX = "vocabulary."
_COPY = "take it from a copy, or use another version"


def open_snapshot(
    path: Path,
    verify: Verify = True,
    expected_digest: str | None = None,
    *,
    threads: int | None = None,
    disk: Disk = DISK,
) -> "Snapshot":
    """Opens a snapshot; SnapshotError naming the file that is not as it was written.

    See `storage.bundle.open_bundle` for `verify` and `expected_digest`; the probes are looked up
    unless `verify` is False. Raises CodecError for a codec this muxtable does not know.
    """
    bundle = open_bundle(path, verify, expected_digest, threads=threads, disk=disk)
    try:
        snapshot = Snapshot(bundle, path)
        if verify is not False:
            snapshot.check_probes()
    except BaseException:
        bundle.close()
        raise
    return snapshot


class Snapshot:
    """What a snapshot holds; arrays are read-only and stay valid after it is closed or deleted."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        """Use `open_snapshot`."""
        where = f'"{path}"'
        if bundle.manifest.kind != "snapshot":
            raise SnapshotError(
                f"{where} is a {bundle.manifest.kind}, no snapshot", "check the path"
            )
        if DELTA in bundle.content:
            raise SnapshotError(
                f"{where} holds only what changed since another version",
                "make the whole of it first: muxtable apply",
            )
        self.bundle = bundle
        self.path = path
        """Where it lies."""
        self.record: Record = record_in(bundle.content, where)
        self.layout: Layout = Layout.from_json(
            dict(self.record.layout), _tensors(bundle, VOCABULARY_PREFIX, strip=False)
        )
        self.codec: Codec = codec_from_json(
            dict(self.record.codec), _tensors(bundle, CODEC_PREFIX, strip=True)
        )
        _check_fit(self.record, self.layout, self.codec, bundle, where)
        self.rows: NDArray[np.uint8] = bundle.tensor(ROWS)
        """[R, row_bytes], mapped."""

    @property
    def name(self) -> str:
        """The name of the version."""
        return self.record.name

    @property
    def digest(self) -> str:
        """The sha256 of its manifest."""
        return self.bundle.digest

    @property
    def content(self) -> dict[str, Any]:
        """The content of its manifest."""
        return self.bundle.content

    @property
    def size_bytes(self) -> int:
        """Bytes of its files without the manifest."""
        return self.bundle.size_bytes

    def vectors(self, rows: NDArray[np.int64], threads: int = 1) -> NDArray[np.float32]:
        """Returns the decoded rows float32[n, width] of row numbers [n]."""
        return self.codec.gather(self.rows, rows, threads=threads)

    def lookup(self, name: str, column: KeyColumn, threads: int = 1) -> NDArray[np.float32]:
        """Returns the vectors float32[B, lookups x width] of one feature's keys, lists pooled.

        Lookups that a prefix codec leaves out are zeros. KeyError if there is no such feature.
        """
        route = self.layout[name]
        if column.offsets is not None and route.feature.pooling == "last":
            column = KeyColumn(*ragged.newest(column.keys, column.nulls, column.offsets, 1))
        if route.reader is not None:
            values = combined(
                route.reader, column, lambda rows: self.vectors(rows, threads), threads
            )
            if column.offsets is None:
                return values
            return pool(values, column.offsets, route.feature.pooling != "sum", threads)
        rows = self.layout.rows_of(name, KeyColumn(column.keys, column.nulls), threads)
        count = num_served(self.codec, len(rows))
        rows = rows[:count]
        num_samples = rows.shape[1] if column.offsets is None else len(column.offsets) - 1
        out = np.zeros((num_samples, route.width_total), np.float32)
        if not num_samples:
            return out
        decoded = self.vectors(rows.reshape(-1), threads)
        width = self.layout.width
        if column.offsets is None:
            served = decoded.reshape(count, num_samples, width).transpose(1, 0, 2)
            out[:, : count * width] = served.reshape(num_samples, count * width)
        else:
            # The decoded rows are a small table of their own.
            places = np.arange(rows.size).reshape(rows.shape)
            mean = route.feature.pooling != "sum"
            pooled = np.empty((num_samples, count * width), np.float32)
            kernels.gather_bags(decoded, places, column.offsets, mean, 0, pooled, threads)
            out[:, : count * width] = pooled
        return out

    def embed(self, columns: Mapping[str, KeyColumn], threads: int = 1) -> NDArray[np.float32]:
        """Returns the whole embedding float32[B, W] of keys by feature: the tower's input."""
        parts = [
            self.lookup(route.name, columns[route.name], threads) for route in self.layout.routes
        ]
        return np.concatenate(parts, axis=1)

    def check_probes(self) -> None:
        """Raises SnapshotError naming the feature whose probes have other vectors."""
        check_probes(self.layout, self.record.probes, self.vectors, f'"{self.path}"')

    def file(self, name: str) -> bytes:
        """Returns the bytes of a file that is no tensor file, compared with its sha256."""
        return self.bundle.file(name)

    def close(self) -> None:
        """Lets the directory go; arrays that were given out stay valid."""
        self.bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def num_served(codec: Codec, num_lookups: int) -> int:
    """Returns how many of a feature's lookups a snapshot answers; the others are zeros."""
    return num_lookups if codec.lookups is None else min(codec.lookups, num_lookups)


def _tensors(bundle: Bundle, prefix: str, *, strip: bool) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix) if strip else name: bundle.tensor(name)
        for name in bundle.tensor_names
        if name.startswith(prefix)
    }


def _check_fit(record: Record, layout: Layout, codec: Codec, bundle: Bundle, where: str) -> None:
    """Raises SnapshotError where layout, codec and rows are not of one snapshot."""
    rows = bundle.entry(ROWS)
    expected = (layout.rows, codec.row_bytes)
    if DTYPES[rows.dtype] != np.uint8 or rows.shape != expected:
        raise SnapshotError(
            f"{where} has rows {rows.dtype} {list(rows.shape)} instead of U8 {list(expected)}",
            _COPY,
        )
    said = (record.rows, record.width, record.row_bytes, record.hash_seed)
    if said != (layout.rows, layout.width, codec.row_bytes, layout.hash_seed):
        raise SnapshotError(f"{where} says other sizes of itself than its layout does", _COPY)
    if codec.width != layout.width:
        raise SnapshotError(f"{where} has a codec of width {codec.width}", _COPY)
    if layout.has_readers and codec.lookups is not None:
        raise SnapshotError(f"{where} leaves out lookups that are combined", _COPY)
