"""From the keys of a batch to its rows, with all that stays the same between batches precomputed.

The lookups of a RowBatch stand in this order: hashed features, then exact ones; its `columns` say
where in the embedding each goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features import ragged
from features.batches import Bag, KeyBatch, KeyColumn, RowBatch
from features.regions import FeatureRoute, Lookup
from native import hashing as native


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Hashing:
    """The arguments of a native call that hashes the keys of features to rows."""

    feature: NDArray[np.int32]
    salts: NDArray[np.uint64]
    null_salts: NDArray[np.uint64]
    bases: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, lookups: Sequence[tuple[int, Lookup]]) -> _Hashing:
        """For lookups, each with the number of its feature among the keys."""
        return cls(
            feature=np.array([number for number, _ in lookups], np.int32),
            salts=np.array([lookup.salt for _, lookup in lookups], np.uint64),
            null_salts=np.array([lookup.null_salt for _, lookup in lookups], np.uint64),
            bases=np.array([lookup.base for _, lookup in lookups], np.int64),
            sizes=np.array([lookup.rows for _, lookup in lookups], np.int64),
        )

    def write(
        self,
        keys: NDArray[np.uint64],
        nulls: NDArray[np.uint8] | None,
        out: NDArray[np.int64],
        threads: int,
    ) -> None:
        if out.size:
            native.hash_rows(
                keys,
                nulls,
                self.feature,
                self.salts,
                self.null_salts,
                self.bases,
                self.sizes,
                out,
                threads,
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Router:
    """The routes of a layout, made ready."""

    univalent: tuple[FeatureRoute, ...]
    exact: tuple[tuple[int, FeatureRoute], ...]
    bags: tuple[FeatureRoute, ...]
    hashing: _Hashing
    columns: NDArray[np.int64]
    each: Mapping[str, _Hashing]

    @classmethod
    def of(cls, univalent: Sequence[FeatureRoute], bags: Sequence[FeatureRoute]) -> Router:
        """For the routes of a layout."""
        hashed = [(i, route) for i, route in enumerate(univalent) if route.vocabulary is None]
        exact = [(i, route) for i, route in enumerate(univalent) if route.vocabulary is not None]
        columns = [lookup.column for _, route in (*hashed, *exact) for lookup in route.lookups]
        return cls(
            univalent=tuple(univalent),
            exact=tuple(exact),
            bags=tuple(bags),
            hashing=_Hashing.of([(i, lookup) for i, route in hashed for lookup in route.lookups]),
            columns=np.array(columns, np.int64),
            each={
                route.name: _Hashing.of([(0, lookup) for lookup in route.lookups])
                for route in (*univalent, *bags)
            },
        )

    def route(self, batch: KeyBatch, out_width: int, threads: int) -> RowBatch:
        """Returns the rows of a batch's keys."""
        keys, nulls = self._matrices(batch)
        rows = np.empty((len(self.columns), batch.num_rows), np.int64)
        first = len(self.hashing.feature)
        self.hashing.write(keys, nulls, rows[:first], threads)
        for number, route in self.exact:
            count = len(route.lookups)
            column = KeyColumn(keys[number], None if nulls is None else nulls[number])
            out = rows[first : first + count]
            _write_rows(route, self.each[route.name], column, out, threads)
            first += count
        bags = tuple(self._bag(route, batch.columns[route.name], threads) for route in self.bags)
        return RowBatch(batch.num_rows, rows, self.columns, bags, out_width)

    def rows_of(self, route: FeatureRoute, column: KeyColumn, threads: int) -> NDArray[np.int64]:
        """Returns the rows int64[c, n] of one feature's keys, lists unpooled."""
        rows = np.empty((len(route.lookups), len(column.keys)), np.int64)
        _write_rows(route, self.each[route.name], column, rows, threads)
        return rows

    def _matrices(self, batch: KeyBatch) -> tuple[NDArray[np.uint64], NDArray[np.uint8] | None]:
        shape = (len(self.univalent), batch.num_rows)
        if batch.matrix is not None:
            if batch.matrix.shape != shape:
                raise ValueError(f"a key matrix of {batch.matrix.shape}, not {shape}")
            return batch.matrix, batch.null_matrix
        columns = [batch.columns[route.name] for route in self.univalent]
        keys = np.empty(shape, np.uint64)
        for i, column in enumerate(columns):
            keys[i] = column.keys
        if all(column.nulls is None for column in columns):
            return keys, None
        nulls = np.zeros(shape, np.uint8)
        for i, column in enumerate(columns):
            if column.nulls is not None:
                nulls[i] = column.nulls
        return keys, nulls

    def _bag(self, route: FeatureRoute, column: KeyColumn, threads: int) -> Bag:
        keys, nulls, offsets = column.keys, column.nulls, column.offsets
        if offsets is None:
            raise ValueError(f"the keys of {route.feature.kind} {route.name} have no offsets")
        if route.feature.pooling == "last":
            keys, nulls, offsets = ragged.newest(keys, nulls, offsets, 1)
        rows = self.rows_of(route, KeyColumn(keys, nulls), threads)
        # The mean of one value is the value, so `last` is a mean too.
        return Bag(rows, offsets, route.feature.pooling != "sum", route.column)


def _write_rows(
    route: FeatureRoute,
    hashing: _Hashing,
    column: KeyColumn,
    out: NDArray[np.int64],
    threads: int,
) -> None:
    if route.vocabulary is None:
        nulls = None if column.nulls is None else column.nulls[None, :]
        hashing.write(column.keys[None, :], nulls, out, threads)
    elif out.size:
        count = len(route.lookups)
        native.exact_rows(column.keys, column.nulls, route.vocabulary, route.base, count, out)
