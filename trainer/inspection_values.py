"""The values a data set has of every feature, and how often each is read: one pass, bounded memory.

At most `most_rows` rows are looked at, and a feature with more than MOST_VALUES values is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features import ragged
from features.batches import KeyColumn
from features.columns import table_keys
from features.parquet import Dataset
from features.routing import Layout
from features.scan import scan
from features.schema import FeatureSet

MOST_ROWS = 2_000_000
MOST_VALUES = 2_000_000
# Counts are merged when as many have come together: merging costs as much as what is kept.
_LEAST_MERGED = 65_536


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Values:
    """The distinct values of a feature, null among them where there is one.

    column   keys uint64[n], rising, and nulls: null stands last
    reads    int64[n], how often each value is looked up
    """

    column: KeyColumn
    reads: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Lookups of all values, for one hash function."""
        return int(self.reads.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The values of every feature in the rows that were looked at."""

    rows: int
    is_whole: bool
    """Whether all rows were looked at."""
    features: Mapping[str, Values]
    left_out: tuple[str, ...]
    """Features with more than MOST_VALUES values."""


def count_values(
    dataset: Dataset,
    layout: Layout,
    most_rows: int = MOST_ROWS,
    most_values: int = MOST_VALUES,
) -> Counted:
    """Counts the values in the first `most_rows` rows, and the rest of the step they end in.

    Raises DataError where the files do not hold what the features of the layout need.
    """
    feature_set = FeatureSet(features=tuple(route.feature for route in layout.routes))
    dataset.check(feature_set, layout.key_classes)
    counts = {route.name: ValueCounts() for route in layout.routes}
    pooled_last = {route.name for route in layout.routes if route.feature.pooling == "last"}
    rows = 0
    for step in scan(dataset, feature_set.feature_columns):
        columns = table_keys(
            step.table,
            feature_set,
            step.where,
            edges=layout.edges,
            key_classes=layout.key_classes,
        )
        for name, known in list(counts.items()):
            column = columns[name]
            if name in pooled_last and column.offsets is not None:
                column = KeyColumn(*ragged.newest(column.keys, column.nulls, column.offsets, 1))
            known.add(column)
            if known.num_values > most_values:
                del counts[name]
        rows = step.first_row + step.table.num_rows
        if rows >= most_rows:
            break
    found = {name: known.values() for name, known in counts.items()}
    features = {name: each for name, each in found.items() if len(each.reads) <= most_values}
    return Counted(
        rows=rows,
        is_whole=rows == dataset.num_rows,
        features=features,
        left_out=tuple(route.name for route in layout.routes if route.name not in features),
    )


class ValueCounts:
    """Counts how often each key comes, in memory of the order of the distinct ones."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)
        self._reads = np.empty(0, np.int64)
        self._null_reads = 0
        self._waiting: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._num_waiting = 0

    @property
    def num_values(self) -> int:
        """Distinct keys merged so far: late by what waits."""
        return len(self._keys)

    def add(self, column: KeyColumn) -> None:
        """Counts the keys and nulls of a column; its offsets are not looked at."""
        keys = column.keys
        if column.nulls is not None:
            is_null = column.nulls.view(bool)
            self._null_reads += int(np.count_nonzero(is_null))
            keys = keys[~is_null]
        found, reads = np.unique(keys, return_counts=True)
        self._waiting.append((found, reads.astype(np.int64)))
        self._num_waiting += len(found)
        if self._num_waiting >= max(len(self._keys), _LEAST_MERGED):
            self._merge()

    def values(self) -> Values:
        """Returns what was counted."""
        self._merge()
        keys, reads, nulls = self._keys, self._reads, None
        if self._null_reads:
            keys, reads = np.append(keys, np.uint64(0)), np.append(reads, self._null_reads)
            nulls = np.zeros(len(keys), np.uint8)
            nulls[-1] = 1
        return Values(column=KeyColumn(keys, nulls), reads=reads)

    def _merge(self) -> None:
        if not self._waiting:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._waiting)])
        reads = np.concatenate([self._reads, *(reads for _, reads in self._waiting)])
        self._waiting, self._num_waiting = [], 0
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        is_first = np.ones(len(ordered), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
        self._keys = ordered[is_first]
        self._reads = (
            np.add.reduceat(reads[order], np.flatnonzero(is_first)) if len(reads) else reads
        )
