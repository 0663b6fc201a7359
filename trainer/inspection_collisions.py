"""Who shares rows with whom, counted on the values of a data set and weighted by how often they
are read.

A value is read by every lookup of its feature. In the row of one lookup it meets

    within    other values of its feature, read by the same lookup: one reader in the tower, so the
              model takes them for one value there (arXiv 2305.12102, section 4, equation 4)
    across    everything else: values of other features, and of the other lookups of its own, which
              other readers of the tower read (equation 5)

Of the reads that fall on the row, and so of the gradients that move it, a share is the value's own,
a share is from within and the rest from across. Null is a value like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.collisions import Collisions, expected_collisions, forecast
from features.readers.ring import RingReader
from features.routing import FeatureRoute, Layout
from trainer.inspection_values import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A share of the values, as foreseen and as counted, and of the reads they get."""

    forecast: float | None
    """None where values read by popularity and no formula tells."""
    values: float
    reads: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCollisions:
    """The collisions of one feature."""

    feature: str
    kind: str
    region: str
    region_rows: int
    num_lookups: int
    by_popularity: bool
    """Whether some values have rows of their own, or read all lookups where others do not."""
    values: int
    reads: int
    within: Shares
    """Not a share but a number: co-residents within the feature of a value, and of a read."""
    across: Shares
    """The same for co-residents from across."""
    in_one_lookup: Shares
    """With a co-resident within the feature, for one lookup (mean over the lookups)."""
    in_all_lookups: Shares
    """With a co-resident within the feature in every lookup, not always the same one."""
    merged: Shares
    """With another value of the feature in the very same rows: nothing tells the two apart."""
    own_reads: float
    """Of the reads of a value's row, its own: mean over the reads, as are the next two."""
    within_reads: float
    across_reads: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowCounts:
    """What falls on each row of the table.

    reads      int64[R]   lookups of the data
    residents  int32[R]   (feature, lookup, value) that have the row
    """

    reads: NDArray[np.int64]
    residents: NDArray[np.int32]


def count_rows(layout: Layout, values: Mapping[str, Values], threads: int = 1) -> RowCounts:
    """Counts for every row what falls on it, in 12 bytes a row."""
    reads = np.zeros(layout.rows, np.int64)
    residents = np.zeros(layout.rows, np.int32)
    for name, found in values.items():
        for rows in layout.rows_of(name, found.column, threads):
            # A network's rows are the same for all values.
            np.add.at(reads, rows, found.reads if len(rows) == len(found.reads) else found.total)
            np.add.at(residents, rows, 1 if len(rows) == len(found.reads) else len(found.reads))
    return RowCounts(reads=reads, residents=residents)


def count_collisions(
    layout: Layout, values: Mapping[str, Values], counts: RowCounts, threads: int = 1
) -> tuple[FeatureCollisions, ...]:
    """Returns the collisions of every feature that is hashed into rows; those whose values a
    dictionary or a network tells apart have none."""
    residents = _expected_residents(layout, values)
    cardinality = {route.name: len(values.get(route.name, _NONE).reads) for route in layout.routes}
    expected = {one.feature: one for one in forecast(layout, cardinality)}
    return tuple(
        _collisions(
            layout,
            route,
            values[route.name],
            counts,
            (expected[route.name], residents[route.region]),
            threads,
        )
        for route in layout.routes
        if route.lookups and route.vocabulary is None and len(values.get(route.name, _NONE).reads)
    )


_NONE = Values(column=KeyColumn(np.empty(0, np.uint64)), reads=np.empty(0, np.int64))


def _expected_residents(layout: Layout, values: Mapping[str, Values]) -> dict[str, float]:
    """Returns the residents of all rows of each region, by its name."""
    residents: dict[str, float] = {}
    for route in layout.routes:
        count = len(route.lookups)
        if isinstance(route.reader, RingReader):
            count = route.reader.width
        count *= len(values.get(route.name, _NONE).reads)
        residents[route.region] = residents.get(route.region, 0.0) + count
    return residents


def _lookup_rows(
    layout: Layout, route: FeatureRoute, column: KeyColumn, threads: int
) -> NDArray[np.int64]:
    """Returns the row that each hash function of a feature gives, int64[c, n]."""
    rows = layout.rows_of(route.name, column, threads)
    if isinstance(route.reader, RingReader):
        # A block is named by its first row; blocks that overlap in part are not counted.
        rows = rows[:: route.reader.block]
    return rows[: len(route.lookups)]


def _collisions(
    layout: Layout,
    route: FeatureRoute,
    found: Values,
    counts: RowCounts,
    foreseen: tuple[Collisions, float],
    threads: int,
) -> FeatureCollisions:
    """Counts; `foreseen` are the feature's collisions, and the residents of its whole region."""
    rows = _lookup_rows(layout, route, found.column, threads)
    weight = found.reads / found.total
    num_lookups, num_values = rows.shape
    within, across = np.zeros(num_values), np.zeros(num_values)
    meets, meets_in_all = np.zeros(num_values), np.ones(num_values, bool)
    shares = np.zeros(3)
    for lookup in rows:
        _, place, others = np.unique(lookup, return_inverse=True, return_counts=True)
        same_reads = np.bincount(place, found.reads)[place]
        same = others[place] - 1
        within += same
        across += counts.residents[lookup] - 1 - same
        meets += same > 0
        meets_in_all &= same > 0
        all_reads = counts.reads[lookup]
        parts = np.stack([found.reads, same_reads - found.reads, all_reads - same_reads])
        shares += (parts / all_reads) @ weight
    expected, residents = foreseen
    region_rows = sum(region.rows for region in layout.regions if region.name == route.region)
    crowd: float | None = residents / region_rows - num_values / route.region_rows
    in_one: float | None = expected_collisions(num_values, route.region_rows, 1)[1]
    same_rows: float | None = expected_collisions(num_values, route.region_rows**num_lookups, 1)[1]
    if route.popular is not None:
        crowd = in_one = same_rows = None

    def measured(forecast: float | None, each: NDArray[np.float64]) -> Shares:
        return Shares(forecast=forecast, values=float(each.mean()), reads=float(each @ weight))

    own, same_feature, foreign = (shares / num_lookups).tolist()
    return FeatureCollisions(
        feature=route.name,
        kind=route.feature.kind,
        region=route.region,
        region_rows=region_rows,
        num_lookups=num_lookups,
        by_popularity=route.popular is not None,
        values=num_values,
        reads=found.total,
        within=measured(expected.co_residents, within / num_lookups),
        across=measured(crowd, across / num_lookups),
        in_one_lookup=measured(in_one, meets / num_lookups),
        in_all_lookups=measured(expected.in_all_lookups, meets_in_all.astype(np.float64)),
        merged=measured(same_rows, _has_twin(rows).astype(np.float64)),
        own_reads=own,
        within_reads=same_feature,
        across_reads=foreign,
    )


def _has_twin(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns of each value whether another one has all its rows, for rows [c, n]."""
    order = np.lexsort(rows)
    same_as_next = (np.diff(rows[:, order], axis=1) == 0).all(axis=0)
    twin = np.zeros(rows.shape[1], bool)
    twin[order[:-1]] |= same_as_next
    twin[order[1:]] |= same_as_next
    return twin
