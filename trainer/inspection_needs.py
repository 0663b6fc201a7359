"""How many rows a collision rate takes: the formula of `features.collisions`, turned round.

A value of N, in R rows by c hash functions, meets another value of its feature in every lookup with
probability (1 - (1 - 1/R)^(N - 1))^c. Features some of whose values are read by popularity are left
out: not all of their values are hashed alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from features.collisions import expected_collisions
from trainer.inspection_collisions import FeatureCollisions

RATES = (0.1, 0.01, 0.001)
_LOOKUPS = (1, 2, 3)
_OCTAVES = 6
_POINTS_PER_OCTAVE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureNeed:
    """The rows of a feature's region at which it collides no more often than RATES."""

    feature: str
    values: int
    num_lookups: int
    now: float
    """The rate foreseen for the rows there are."""
    rows: tuple[int, ...]
    """For each of RATES; in a shared region the feature that needs most decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedCurve:
    """The rate over the rows, all hashed features together, by number of lookups."""

    num_lookups: int
    points: tuple[tuple[float, float], ...]
    """(rows, share of all values that collide in every lookup); all regions grow alike."""


def rows_needed(num_values: int, num_lookups: int, rate: float) -> int:
    """Returns the fewest rows at which at most `rate` (0 to 1) of the values are expected to
    collide in every lookup."""
    others = max(num_values - 1, 0)
    if not others or rate >= 1:
        return 1
    in_one: float = rate ** (1 / num_lookups)
    return math.ceil(-1 / math.expm1(math.log1p(-in_one) / others))


def feature_needs(collisions: Sequence[FeatureCollisions]) -> tuple[FeatureNeed, ...]:
    """Returns what each hashed feature needs."""
    found = []
    for one in collisions:
        now = one.in_all_lookups.forecast
        if one.by_popularity or now is None:
            continue
        needs = tuple(rows_needed(one.values, one.num_lookups, rate) for rate in RATES)
        found.append(
            FeatureNeed(
                feature=one.feature,
                values=one.values,
                num_lookups=one.num_lookups,
                now=now,
                rows=needs,
            )
        )
    return tuple(found)


def need_curves(collisions: Sequence[FeatureCollisions]) -> tuple[NeedCurve, ...]:
    """Returns the curves from a 64th of the rows to 64 times as many."""
    collisions = [one for one in collisions if not one.by_popularity]
    if not collisions:
        return ()
    total_values = sum(one.values for one in collisions)
    total_rows = sum({one.region: one.region_rows for one in collisions}.values())
    steps = range(-_OCTAVES * _POINTS_PER_OCTAVE, _OCTAVES * _POINTS_PER_OCTAVE + 1)
    curves = []
    for num_lookups in _LOOKUPS:
        points = []
        for step in steps:
            factor = 2 ** (step / _POINTS_PER_OCTAVE)
            lost = sum(
                one.values
                * expected_collisions(
                    one.values, max(1, round(factor * one.region_rows)), num_lookups
                )[1]
                for one in collisions
            )
            points.append((factor * total_rows, lost / total_values))
        curves.append(NeedCurve(num_lookups=num_lookups, points=tuple(points)))
    return tuple(curves)
