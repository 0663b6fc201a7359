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
from features.batches import Bag, KeyBatch, KeyColumn, Part, RowBatch
from features.hashed import Hashing
from features.popular import Popular
from features.regions import FeatureRoute
from native import hashing as native


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Router:
    """The routes of a layout, made ready."""

    routes: tuple[FeatureRoute, ...]
    univalent: tuple[FeatureRoute, ...]
    exact: tuple[tuple[int, FeatureRoute], ...]
    popular: tuple[tuple[int, slice, Popular], ...]
    """(number, lookups, what changes) of the hashed features where popularity counts."""
    bags: tuple[FeatureRoute, ...]
    hashing: Hashing
    columns: NDArray[np.int64]
    each: Mapping[str, Hashing]

    @classmethod
    def of(cls, routes: Sequence[FeatureRoute]) -> Router:
        """For the routes of a layout."""
        univalent = [route for route in routes if not route.feature.is_bag]
        bags = [route for route in routes if route.feature.is_bag]
        hashed = [(i, route) for i, route in enumerate(univalent) if route.vocabulary is None]
        exact = [(i, route) for i, route in enumerate(univalent) if route.vocabulary is not None]
        popular, first = [], 0
        for number, route in hashed:
            if route.popular is not None:
                lookups = slice(first, first + len(route.lookups))
                popular.append((number, lookups, route.popular))
            first += len(route.lookups)
        columns = [lookup.column for _, route in (*hashed, *exact) for lookup in route.lookups]
        return cls(
            routes=tuple(routes),
            univalent=tuple(univalent),
            exact=tuple(exact),
            popular=tuple(popular),
            bags=tuple(bags),
            hashing=Hashing.of([(i, lookup) for i, route in hashed for lookup in route.lookups]),
            columns=np.array(columns, np.int64),
            each={
                route.name: Hashing.of([(0, lookup) for lookup in route.lookups])
                for route in (*univalent, *bags)
            },
        )

    def route(self, batch: KeyBatch, out_width: int, threads: int) -> RowBatch:
        """Returns the rows of a batch's keys."""
        keys, nulls = self._matrices(batch)
        rows = np.empty((len(self.columns), batch.num_rows), np.int64)
        first = len(self.hashing.feature)
        self.hashing.write(keys, nulls, rows[:first], threads)
        for number, lookups, popular in self.popular:
            column = KeyColumn(keys[number], None if nulls is None else nulls[number])
            popular.change(column, rows[lookups])
        for number, route in self.exact:
            count = len(route.lookups)
            column = KeyColumn(keys[number], None if nulls is None else nulls[number])
            out = rows[first : first + count]
            _write_rows(route, self.each[route.name], column, out, threads)
            first += count
        bags = tuple(self._bag(route, batch.columns[route.name], threads) for route in self.bags)
        return RowBatch(batch.num_rows, rows, self.columns, bags, out_width)

    def read(self, batch: KeyBatch, width: int, threads: int) -> RowBatch:
        """Returns the rows of a batch's keys where readers make the vectors."""
        columns = {
            route.name: _pooled(route, batch.columns[route.name])
            if route.feature.is_bag
            else batch.columns[route.name]
            for route in self.routes
        }
        return _one_by_one(
            [_read(route, columns[route.name], threads) for route in self.routes], width
        )

    def read_values(
        self, route: FeatureRoute, column: KeyColumn, width: int, threads: int
    ) -> RowBatch:
        """Returns the rows of one feature's keys, each a sample of its own."""
        return _one_by_one([_read(route, KeyColumn(column.keys, column.nulls), threads)], width)

    def rows_of(self, route: FeatureRoute, column: KeyColumn, threads: int) -> NDArray[np.int64]:
        """Returns the rows int64[c, n] of one feature's keys, lists unpooled."""
        if route.reader is not None:
            return route.reader.read(column, threads).rows
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
        column = _pooled(route, column)
        rows = self.rows_of(route, column, threads)
        assert column.offsets is not None  # noqa: S101  `_pooled` has looked
        # The mean of one value is the value, so `last` is a mean too.
        return Bag(rows, column.offsets, route.feature.pooling != "sum", route.column)


def _read(route: FeatureRoute, column: KeyColumn, threads: int) -> tuple[NDArray[np.int64], Part]:
    """Returns the rows of a feature's keys, lookup by lookup, and what is made of them."""
    assert route.reader is not None  # noqa: S101  all routes have one, or none
    reading = route.reader.read(column, threads)
    count, num_values = reading.rows.shape
    mean = route.feature.pooling != "sum"
    part = Part(route.reader, (count, num_values), reading.extra, column.offsets, mean)
    return reading.rows.reshape(-1), part


def _one_by_one(read: Sequence[tuple[NDArray[np.int64], Part]], width: int) -> RowBatch:
    """Returns a batch that looks every row up as a sample of its own."""
    rows = np.concatenate([rows for rows, _ in read])[None]
    parts = tuple(part for _, part in read)
    return RowBatch(rows.size, rows, np.zeros(1, np.int64), (), width, parts)


def _pooled(route: FeatureRoute, column: KeyColumn) -> KeyColumn:
    """Returns the keys of a list or sequence that are pooled."""
    if column.offsets is None:
        raise ValueError(f"the keys of {route.feature.kind} {route.name} have no offsets")
    if route.feature.pooling == "last":
        return KeyColumn(*ragged.newest(column.keys, column.nulls, column.offsets, 1))
    return column


def _write_rows(
    route: FeatureRoute,
    hashing: Hashing,
    column: KeyColumn,
    out: NDArray[np.int64],
    threads: int,
) -> None:
    if route.vocabulary is None:
        nulls = None if column.nulls is None else column.nulls[None, :]
        hashing.write(column.keys[None, :], nulls, out, threads)
        if route.popular is not None:
            route.popular.change(column, out)
    elif out.size:
        count = len(route.lookups)
        native.exact_rows(column.keys, column.nulls, route.vocabulary, route.base, count, out)
