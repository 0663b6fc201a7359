"""Rows with their keys, ready to be put together into batches.

A block is decoded and permuted as a whole and kept as segments of a few thousand rows, so that its
memory is freed little by little while batches use it up.

Letters: F univalent features, n rows of a segment, B rows of a batch, D dense columns.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyBatch, KeyColumn
from features.columns import table_keys
from features.dense import DenseTransform, build_transforms, dense_matrix
from features.labels import labels_of, weights_of
from features.ragged import offsets_of, ranges
from features.schema import FeatureSet
from features.statistics import FeatureStatistics, KeyClass
from native.order import permute_columns

Permutation = NDArray[np.uint32]

_MAX_NARROW = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some rows of one block, in the order they are given."""

    num_rows: int
    matrix: NDArray[np.uint64]
    """Keys of the univalent features [F, n]."""
    null_matrix: NDArray[np.uint8] | None
    bags: tuple[KeyColumn, ...]
    dense: NDArray[np.float32]
    """[n, D]."""
    label: NDArray[np.float32] | None
    weight: NDArray[np.float32] | None


# Keys [F, n] and numbers [n, D].
_Arrays = tuple[NDArray[np.uint64], NDArray[np.float32]]
# A segment and the range of its rows that goes into a batch.
Piece = tuple[Segment, int, int]


class SegmentPool:
    """Arrays of whole segments, given out again once they were used up.

    Most of what a stream holds lies in them. Freed bit by bit and allocated anew they would cut up
    the heap, which then grows for as long as an epoch takes.
    """

    def __init__(self, segment_rows: int) -> None:
        self.segment_rows = segment_rows
        self._free: list[_Arrays] = []

    def take(self, num_columns: int, num_rows: int, num_dense: int) -> _Arrays:
        """Returns arrays whose content is unspecified; safe in any thread."""
        if num_rows == self.segment_rows:
            with suppress(IndexError):
                return self._free.pop()
        matrix = np.empty((num_columns, num_rows), np.uint64)
        return matrix, np.empty((num_rows, num_dense), np.float32)

    def give_back(self, segment: Segment) -> None:
        """Takes the arrays of a segment that nobody reads any more."""
        if segment.num_rows == self.segment_rows:
            self._free.append((segment.matrix, segment.dense))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDecoder:
    """Turns Arrow tables into blocks: keys, transformed numbers, checked labels."""

    feature_set: FeatureSet
    transforms: tuple[DenseTransform, ...]
    edges: dict[str, tuple[float, ...]]
    key_classes: dict[str, KeyClass | None]

    @classmethod
    def build(cls, feature_set: FeatureSet, statistics: FeatureStatistics) -> Self:
        """A decoder for data like that of `statistics`."""
        return cls(
            feature_set=feature_set,
            transforms=build_transforms(feature_set, statistics),
            edges={
                feature.name: statistics.dense[feature.name].edges or ()
                for feature in feature_set.features
                if feature.kind == "bucketized"
            },
            key_classes={
                feature.name: statistics.categorical[feature.name].key_class
                for feature in feature_set.features
            },
        )

    def decode(
        self, table: Any, permutation: Permutation | None, where: str, pool: SegmentPool
    ) -> list[Segment]:
        """Returns a table's rows, permuted, in segments; DataError names column and row."""
        features = self.feature_set
        columns = table_keys(table, features, where, edges=self.edges, key_classes=self.key_classes)
        univalent = [columns[feature.name] for feature in features.univalent]
        bags = [columns[feature.name] for feature in features.bags]
        dense = dense_matrix(self.transforms, table, where)
        label = weight = None
        if features.label is not None:
            label = labels_of(table.column(features.label), features.label, where)
        if features.weight is not None:
            weight = weights_of(table.column(features.weight), features.weight, where)
        if permutation is None:
            permutation = np.arange(table.num_rows, dtype=np.uint32)
        slices = [
            permutation[first : first + pool.segment_rows]
            for first in range(0, table.num_rows, pool.segment_rows)
        ]
        arrays = [pool.take(len(univalent), len(rows), dense.shape[1]) for rows in slices]
        _permute_keys(
            [column.keys for column in univalent], permutation, [matrix for matrix, _ in arrays]
        )
        segments = []
        for rows, (matrix, numbers) in zip(slices, arrays, strict=True):
            # "clip" is the mode that writes to `out` directly; nothing is outside.
            dense.take(rows, axis=0, out=numbers, mode="clip")
            segments.append(
                Segment(
                    num_rows=len(rows),
                    matrix=matrix,
                    null_matrix=_take_nulls([column.nulls for column in univalent], rows),
                    bags=tuple(_take_bag(bag, rows) for bag in bags),
                    dense=numbers,
                    label=None if label is None else label.take(rows),
                    weight=None if weight is None else weight.take(rows),
                )
            )
        return segments

    def assemble(self, pieces: Sequence[Piece]) -> KeyBatch:
        """Returns a batch of the pieces' rows, one piece behind the other."""
        num_rows = sum(high - low for _, low, high in pieces)
        features = self.feature_set
        matrix = np.empty((len(features.univalent), num_rows), np.uint64)
        null_matrix = None
        if any(segment.null_matrix is not None for segment, _, _ in pieces):
            null_matrix = np.zeros(matrix.shape, np.uint8)
        dense = np.empty((num_rows, sum(t.width for t in self.transforms)), np.float32)
        label = None if features.label is None else np.empty(num_rows, np.float32)
        weight = None if features.weight is None else np.empty(num_rows, np.float32)
        at = 0
        for segment, low, high in pieces:
            to = at + high - low
            matrix[:, at:to] = segment.matrix[:, low:high]
            dense[at:to] = segment.dense[low:high]
            if null_matrix is not None and segment.null_matrix is not None:
                null_matrix[:, at:to] = segment.null_matrix[:, low:high]
            if label is not None and segment.label is not None:
                label[at:to] = segment.label[low:high]
            if weight is not None and segment.weight is not None:
                weight[at:to] = segment.weight[low:high]
            at = to
        return self._batch(matrix, null_matrix, self._join_bags(pieces), dense, label, weight)

    def batch_of(self, segment: Segment) -> KeyBatch:
        """Returns a whole segment as a batch."""
        return self._batch(
            segment.matrix,
            segment.null_matrix,
            segment.bags,
            segment.dense,
            segment.label,
            segment.weight,
        )

    def _join_bags(self, pieces: Sequence[Piece]) -> list[KeyColumn]:
        return [
            _join_bag([(segment.bags[place], low, high) for segment, low, high in pieces])
            for place in range(len(self.feature_set.bags))
        ]

    def _batch(
        self,
        matrix: NDArray[np.uint64],
        null_matrix: NDArray[np.uint8] | None,
        bags: Sequence[KeyColumn],
        dense: NDArray[np.float32],
        label: NDArray[np.float32] | None,
        weight: NDArray[np.float32] | None,
    ) -> KeyBatch:
        features = self.feature_set
        columns = {
            feature.name: KeyColumn(keys, None if null_matrix is None else null_matrix[place])
            for place, (feature, keys) in enumerate(zip(features.univalent, matrix, strict=True))
        }
        for feature, bag in zip(features.bags, bags, strict=True):
            columns[feature.name] = bag
        return KeyBatch(
            num_rows=len(dense),
            columns=columns,
            matrix=matrix,
            null_matrix=null_matrix,
            dense=dense,
            label=label,
            weight=weight,
        )


def _permute_keys(
    columns: Sequence[NDArray[np.uint64]],
    permutation: Permutation,
    out: Sequence[NDArray[np.uint64]],
) -> None:
    """Writes the permuted columns into the matrices of the segments, one behind the other."""
    # Column by column, since one fits into the cache: segment by segment takes twice as long.
    wide = np.empty((1, len(permutation)), np.uint64)
    narrow = np.empty((1, len(permutation)), np.uint32)
    for place, column in enumerate(columns):
        permuted: NDArray[np.uint64] | NDArray[np.uint32] = wide
        # Most integers are small: half the bytes are gathered in three quarters of the time.
        if len(column) and column[0] <= _MAX_NARROW and column.max() <= _MAX_NARROW:
            permuted = narrow
            permute_columns([column.astype(np.uint32)], permutation, narrow)
        else:
            permute_columns([column], permutation, wide)
        first = 0
        for matrix in out:
            end = first + matrix.shape[1]
            matrix[place] = permuted[0, first:end]
            first = end


def _take_nulls(
    columns: Sequence[NDArray[np.uint8] | None], rows: Permutation
) -> NDArray[np.uint8] | None:
    if all(nulls is None for nulls in columns):
        return None
    out = np.zeros((len(columns), len(rows)), np.uint8)
    for row, nulls in zip(out, columns, strict=True):
        if nulls is not None:
            nulls.take(rows, out=row)
    return out


def _take_bag(bag: KeyColumn, rows: Permutation) -> KeyColumn:
    if bag.offsets is None:
        raise TypeError("a list feature's keys come without offsets")
    lengths = np.diff(bag.offsets)[rows]
    chosen = ranges(bag.offsets[:-1][rows], lengths)
    nulls = None if bag.nulls is None else bag.nulls[chosen]
    return KeyColumn(bag.keys[chosen], nulls, offsets_of(lengths))


def _join_bag(pieces: Sequence[tuple[KeyColumn, int, int]]) -> KeyColumn:
    """The bags of some rows of several columns, one behind the other."""
    keys, nulls, lengths = [], [], []
    for column, low, high in pieces:
        offsets = column.offsets
        if offsets is None:
            raise TypeError("a list feature's keys come without offsets")
        first, last = int(offsets[low]), int(offsets[high])
        keys.append(column.keys[first:last])
        nulls.append(None if column.nulls is None else column.nulls[first:last])
        lengths.append(np.diff(offsets[low : high + 1]))
    joined = np.concatenate(keys or [np.empty(0, np.uint64)])
    mask = None
    if any(part is not None for part in nulls):
        filled = zip(nulls, keys, strict=True)
        mask = np.concatenate(
            [np.zeros(len(k), np.uint8) if part is None else part for part, k in filled]
        )
    return KeyColumn(joined, mask, offsets_of(np.concatenate(lengths or [np.empty(0, np.int64)])))
