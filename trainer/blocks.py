"""Blocks of rows with their keys, ready to be cut into batches.

Letters: F univalent features, n rows of a block, B rows of a batch, D dense columns.
"""

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBlock:
    """The rows of one block in the order they are given."""

    num_rows: int
    matrix: NDArray[np.uint64]
    """Keys of the univalent features [F, n]."""
    null_matrix: NDArray[np.uint8] | None
    bags: tuple[KeyColumn, ...]
    dense: NDArray[np.float32]
    """[n, D]."""
    label: NDArray[np.float32] | None
    weight: NDArray[np.float32] | None


# A block and the range of its rows that goes into a batch.
Piece = tuple[KeyBlock, int, int]


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

    def decode(self, table: Any, permutation: Permutation | None, where: str) -> KeyBlock:
        """Returns the block of a table's rows, permuted; DataError names column and row."""
        features = self.feature_set
        columns = table_keys(table, features, where, edges=self.edges, key_classes=self.key_classes)
        univalent = [columns[feature.name] for feature in features.univalent]
        dense = dense_matrix(self.transforms, table, where)
        label = weight = None
        if features.label is not None:
            label = labels_of(table.column(features.label), features.label, where)
        if features.weight is not None:
            weight = weights_of(table.column(features.weight), features.weight, where)
        return KeyBlock(
            num_rows=table.num_rows,
            matrix=_matrix([c.keys for c in univalent], table.num_rows, np.uint64, permutation),
            null_matrix=_nulls([c.nulls for c in univalent], table.num_rows, permutation),
            bags=tuple(_permute_bag(columns[f.name], permutation) for f in features.bags),
            dense=_permute(dense, permutation),
            label=None if label is None else _permute(label, permutation),
            weight=None if weight is None else _permute(weight, permutation),
        )

    def assemble(self, pieces: Sequence[Piece]) -> KeyBatch:
        """Returns a batch of the pieces' rows, one piece behind the other."""
        num_rows = sum(high - low for _, low, high in pieces)
        features = self.feature_set
        matrix = np.empty((len(features.univalent), num_rows), np.uint64)
        null_matrix = None
        if any(block.null_matrix is not None for block, _, _ in pieces):
            null_matrix = np.zeros(matrix.shape, np.uint8)
        dense = np.empty((num_rows, sum(t.width for t in self.transforms)), np.float32)
        label = None if features.label is None else np.empty(num_rows, np.float32)
        weight = None if features.weight is None else np.empty(num_rows, np.float32)
        at = 0
        for block, low, high in pieces:
            to = at + high - low
            matrix[:, at:to] = block.matrix[:, low:high]
            dense[at:to] = block.dense[low:high]
            if null_matrix is not None and block.null_matrix is not None:
                null_matrix[:, at:to] = block.null_matrix[:, low:high]
            if label is not None and block.label is not None:
                label[at:to] = block.label[low:high]
            if weight is not None and block.weight is not None:
                weight[at:to] = block.weight[low:high]
            at = to
        return self._batch(matrix, null_matrix, self._join_bags(pieces), dense, label, weight)

    def cut(self, block: KeyBlock, low: int, high: int) -> KeyBatch:
        """Returns some rows of one block as a batch of views."""
        nulls, label, weight = block.null_matrix, block.label, block.weight
        return self._batch(
            block.matrix[:, low:high],
            None if nulls is None else nulls[:, low:high],
            self._join_bags([(block, low, high)]),
            block.dense[low:high],
            None if label is None else label[low:high],
            None if weight is None else weight[low:high],
        )

    def _join_bags(self, pieces: Sequence[Piece]) -> list[KeyColumn]:
        return [
            _join_bag([(block.bags[place], low, high) for block, low, high in pieces])
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


def _matrix(
    columns: Sequence[NDArray[Any]], num_rows: int, dtype: Any, permutation: Permutation | None
) -> NDArray[Any]:
    out = np.empty((len(columns), num_rows), dtype)
    if permutation is None:
        for row, column in zip(out, columns, strict=True):
            row[:] = column
    else:
        permute_columns(columns, permutation, out)
    return out


def _nulls(
    columns: Sequence[NDArray[np.uint8] | None], num_rows: int, permutation: Permutation | None
) -> NDArray[np.uint8] | None:
    if all(nulls is None for nulls in columns):
        return None
    out = np.zeros((len(columns), num_rows), np.uint8)
    for row, nulls in zip(out, columns, strict=True):
        if nulls is not None:
            row[:] = nulls if permutation is None else nulls[permutation]
    return out


def _permute(values: NDArray[Any], permutation: Permutation | None) -> NDArray[Any]:
    return values if permutation is None else values.take(permutation, axis=0)


def _permute_bag(bag: KeyColumn, permutation: Permutation | None) -> KeyColumn:
    if permutation is None or bag.offsets is None:
        return bag
    lengths = np.diff(bag.offsets)[permutation]
    chosen = ranges(bag.offsets[:-1][permutation], lengths)
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
