"""How many values of a feature share rows: forecast from cardinalities, or counted from keys.

Only values of the *same* feature that meet in the same lookup count: what two features do to one
row a tower can tell apart, two values of one feature it cannot (arXiv 2305.12102, section 4).
A feature of N values in a region of R rows has per lookup

    co-residents of a value           (N - 1) / R
    a value has at least one          p = 1 - (1 - 1/R)^(N - 1)
    a value has one in all c lookups  p^c, since the lookups' hash functions are independent

Values with rows of their own meet nobody. Where some are not frequent, these meet all their like in
every lookup but the first.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.popular import Popular
from features.routing import FeatureRoute, Layout

_NO_KEYS = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collisions:
    """Same-feature collisions of one feature."""

    feature: str
    cardinality: float
    co_residents: float
    """Other values in a value's row, mean over values and lookups."""
    in_all_lookups: float
    """Probability (or share) of values that have a co-resident in every lookup."""

    @property
    def values_in_all_lookups(self) -> float:
        """Values that have a co-resident in every lookup."""
        return self.cardinality * self.in_all_lookups


def expected_collisions(cardinality: float, num_rows: int, num_lookups: int) -> tuple[float, float]:
    """Returns a value's expected co-residents per lookup, and its chance of one in every lookup.

    For `cardinality` values hashed into `num_rows` rows by `num_lookups` hash functions.
    """
    others = max(cardinality - 1, 0)
    if num_rows == 1:
        return others, float(others > 0)
    # log1p and expm1 keep the digits where rows are many.
    meets = -math.expm1(others * math.log1p(-1 / num_rows))
    return others / num_rows, meets**num_lookups


def forecast(layout: Layout, cardinality: Mapping[str, float]) -> tuple[Collisions, ...]:
    """Returns the expected collisions of every embedded feature.

    Exact features have none, nor have those whose values a dictionary or a network tells apart.
    """
    forecasts = []
    for route in layout.routes:
        count = cardinality[route.name]
        co_residents = in_all = 0.0
        if route.popular is not None:
            co_residents, in_all = _popular_collisions(route, route.popular, count)
        elif route.vocabulary is None and route.lookups:
            co_residents, in_all = expected_collisions(count, route.region_rows, len(route.lookups))
        forecasts.append(
            Collisions(
                feature=route.name,
                cardinality=count,
                co_residents=co_residents,
                in_all_lookups=in_all,
            )
        )
    return tuple(forecasts)


def _popular_collisions(
    route: FeatureRoute, popular: Popular, cardinality: float
) -> tuple[float, float]:
    """Returns co-residents and chance of one in every lookup, mean over all values."""
    rows, lookups = route.region_rows, len(route.lookups)
    hot = _NO_KEYS if popular.hot is None else popular.hot.keys
    cold = max(cardinality - len(hot), 0)
    if not cold:
        return 0.0, 0.0
    if popular.frequent is None:
        co_residents, in_all = expected_collisions(cold, rows, lookups)
        return co_residents * cold / cardinality, in_all * cold / cardinality
    frequent = len(np.setdiff1d(popular.frequent.keys, hot, assume_unique=True))
    rare = max(cold - frequent, 0)
    first, meets = expected_collisions(cold, rows, 1)
    further, meets_further = expected_collisions(frequent, rows, lookups - 1)
    residents = cold * first + (lookups - 1) * (frequent * further + rare * max(rare - 1, 0))
    lost = frequent * meets * meets_further + rare * (meets if rare > 1 else 0)
    return residents / lookups / cardinality, lost / cardinality


def measured_collisions(layout: Layout, feature: str, keys: NDArray[np.uint64]) -> Collisions:
    """Counts the collisions of a feature's values from their keys (repeated ones count once).

    Values an exact feature has not seen all share its row for the unseen. As in a forecast, values
    that a dictionary or a network tells apart have none, and rows that only weigh others, as
    importances do, do not count.
    """
    distinct = np.unique(keys)
    route = layout[feature]
    if route.reader is not None and route.vocabulary is None and not route.lookups:
        cardinality = float(len(distinct))
        return Collisions(
            feature=feature, cardinality=cardinality, co_residents=0.0, in_all_lookups=0.0
        )
    rows = layout.rows_of(feature, KeyColumn(distinct))
    if route.reader is not None and route.lookups and distinct.size:
        # All values read a lookup in one region: the first one says in which.
        rows = rows[[layout.region_of(int(row)).name == route.region for row in rows[:, 0]]]
    others = np.stack([_sharers(lookup) for lookup in rows]) if distinct.size else np.zeros((1, 1))
    return Collisions(
        feature=feature,
        cardinality=len(distinct),
        co_residents=float(others.mean()),
        in_all_lookups=float((others > 0).all(axis=0).mean()),
    )


def mean_co_residents(collisions: Iterable[Collisions]) -> float:
    """The co-residents of a value, mean over all values of all features."""
    known = list(collisions)
    total = sum(one.cardinality for one in known)
    return sum(one.cardinality * one.co_residents for one in known) / total if total else 0.0


def _sharers(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each value, how many others have its row."""
    _, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return counts[inverse] - 1
