"""The vectors of values by themselves: a Parquet file for each feature, and an index to search.

    FEATURE.parquet      value, vector: float32[lookups x width]; one row for each value seen
    FEATURE.faiss        the same rows by number, their vectors of length 1: inner product = cosine

`value` is what stands in the data: an id or a string, of a list the element, of a date or time with
a derived part that part, of a cross a struct of its parts; null has a row where it was seen. A
bucketized feature has a row for each bucket: its number, and where it begins and ends.

Values stand in the order they were first seen. A file appears when it is whole.
"""

import importlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.arrow import storage_type
from features.batches import KeyColumn
from features.columns import keys_of, table_keys
from features.errors import ConfigError
from features.parquet import Dataset
from features.routing import FeatureRoute, Layout
from features.scan import Step, scan
from features.schema import Feature, FeatureSet

# vectors(feature, keys) -> float32[n, lookups x width]
Vectors = Callable[[str, KeyColumn], NDArray[np.float32]]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFile:
    """What was written of one feature."""

    feature: str
    path: Path
    values: int
    index: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """Some values of a feature and their keys."""

    array: Any
    column: KeyColumn


def write_values(
    dataset: Dataset,
    feature_set: FeatureSet,
    layout: Layout,
    vectors: Vectors,
    out: Path,
    *,
    has_index: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
) -> list[ValueFile]:
    """Reads a dataset once and writes the vectors of the values in it.

    The keys of all values seen are in memory, 8 bytes each; with `has_index` so are their vectors.
    Raises ConfigError where a file exists, or faiss is missing.
    """
    names = file_names([route.name for route in layout.routes])
    endings = (".parquet", ".faiss") if has_index else (".parquet",)
    refuse_existing(out, [name + ending for name in names for ending in endings])
    index = _faiss() if has_index else None
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(_Writer(route, out / name, vectors, index))
            for route, name in zip(layout.routes, names, strict=True)
        ]
        for writer in writers:
            writer.add_buckets()
        for step in scan(dataset, feature_set.feature_columns):
            columns = table_keys(
                step.table,
                feature_set,
                step.where,
                edges=layout.edges,
                key_classes=layout.key_classes,
            )
            for writer in writers:
                writer.add(step, columns)
            on_rows(step.table.num_rows)
        return [writer.finish() for writer in writers]


def file_names(features: Sequence[str]) -> list[str]:
    """Returns a file name for each feature, without an ending: its own where a file may have it."""
    folded = [name.lower() for name in features]
    return [
        name
        if _PLAIN.fullmatch(name) and folded.count(name.lower()) == 1
        else f"feature-{number:03d}"
        for number, name in enumerate(features)
    ]


def refuse_existing(out: Path, names: Sequence[str]) -> None:
    """Raises ConfigError where a folder has one of these files."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "give --out a folder")
    for name in names:
        if (out / name).exists():
            raise ConfigError(f"{out / name} exists", "give another --out, or remove it")


class _Writer:
    """Writes the files of one feature."""

    def __init__(self, route: FeatureRoute, path: Path, vectors: Vectors, faiss: Any) -> None:
        self._route = route
        self._path = path.with_name(f"{path.name}.parquet")
        self._scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._unfinished = self._scratch.with_suffix(".index")
        self._vectors = vectors
        self._faiss = faiss
        self._index = None if faiss is None else faiss.IndexFlatIP(route.width_total)
        self._seen: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._has_null = False
        self._writer: Any = None
        self._count = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._scratch.unlink(missing_ok=True)
        self._unfinished.unlink(missing_ok=True)

    def add_buckets(self) -> None:
        """Writes all values of a bucketized feature, which are known without data."""
        edges = self._route.edges
        if edges is None:
            return
        count = len(edges) + 1
        numbers = pa.array([*range(count), None], pa.int32())
        starts = pa.array([None, *edges, None], pa.float64())
        ends = pa.array([*edges, None, None], pa.float64())
        keys = np.append(np.arange(count, dtype=np.uint64), np.uint64(0))
        nulls = np.append(np.zeros(count, np.uint8), np.uint8(1))
        self._write({"value": numbers, "from": starts, "to": ends}, KeyColumn(keys, nulls))

    def add(self, step: Step, columns: dict[str, KeyColumn]) -> None:
        """Writes the values of a table that were not seen before."""
        if self._route.edges is not None:
            return
        found = _values(self._route.feature, step, columns)
        keys, nulls = found.column.keys, found.column.nulls
        present = np.arange(len(keys)) if nulls is None else np.flatnonzero(nulls == 0)
        distinct, first = np.unique(keys[present], return_index=True)
        new = ~np.isin(distinct, self._seen, assume_unique=True)
        places = np.sort(present[first[new]])
        if nulls is not None and nulls.any() and not self._has_null:
            self._has_null = True
            places = np.sort(np.append(places, np.argmax(nulls)))
        if not len(places):
            return
        self._seen = np.union1d(self._seen, distinct[new])
        some = KeyColumn(keys[places], None if nulls is None else nulls[places])
        self._write({"value": found.array.take(pa.array(places))}, some)

    def finish(self) -> ValueFile:
        """Puts the files in their places."""
        if self._writer is None:
            empty = KeyColumn(np.empty(0, np.uint64))
            self._write({"value": pa.nulls(0)}, empty)
        self._writer.close()
        self._writer = None
        index = None
        if self._index is not None:
            index = self._path.with_suffix(".faiss")
            self._faiss.write_index(self._index, str(self._unfinished))
            self._unfinished.replace(index)
        self._scratch.replace(self._path)
        return ValueFile(feature=self._route.name, path=self._path, values=self._count, index=index)

    def _write(self, columns: dict[str, Any], keys: KeyColumn) -> None:
        vectors = self._vectors(self._route.name, keys)
        table = pa.table({**columns, "vector": _lists(vectors)})
        if self._writer is None:
            note = {"muxtable.feature": self._route.name}
            self._writer = pq.ParquetWriter(
                self._scratch,
                table.schema.with_metadata(note),
                compression="zstd",
                write_page_checksum=True,
            )
        self._writer.write_table(table.cast(self._writer.schema))
        self._count += len(vectors)
        if self._index is not None:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._index.add(
                np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
            )


def _values(feature: Feature, step: Step, columns: dict[str, KeyColumn]) -> _Values:
    if feature.kind == "cross":
        parts = {
            part: _plain(step.table.column(column))
            for part, column in zip(feature.parts, feature.columns, strict=True)
        }
        return _Values(
            array=pa.StructArray.from_arrays(list(parts.values()), names=list(parts)),
            column=columns[feature.name],
        )
    array = step.table.column(feature.column)
    if feature.is_bag:
        # The values by themselves, each as a sample of its own.
        flat = _plain(_plain(array).flatten())
        single = replace(feature, kind="categorical", pooling=None, max_length=None)
        return _Values(array=flat, column=keys_of(flat, single, step.where))
    column = columns[feature.name]
    if feature.derive is not None:
        mask = None if column.nulls is None else column.nulls.astype(bool)
        return _Values(array=pa.array(column.keys.view(np.int64), mask=mask), column=column)
    return _Values(array=_plain(array), column=column)


def _plain(column: Any) -> Any:
    """One array without chunks, dictionaries and extension types."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    plain = storage_type(array.type)
    if plain != array.type:
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _lists(vectors: NDArray[np.float32]) -> Any:
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as exc:
        raise ConfigError(
            f"an index is made by faiss: {exc}", "pip install faiss-cpu, or --to parquet"
        ) from exc
