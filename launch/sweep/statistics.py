"""Means of few seeds, their spread, and whether two of them differ by more than chance.

Welch's t-test (Biometrika 34, 1947): two means whose variances need not be equal. Its p is a tail
of Student's distribution, an incomplete beta function, which is computed here by its continued
fraction (DLMF 8.17.22): the installed program has no scipy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = 300
_EPS = 1e-15
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some measurements of one thing."""

    count: int
    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welch:
    """The difference of two means, and how likely chance alone makes one as large."""

    difference: float
    p: float | None
    """Two-sided; None where a side has one measurement, or neither side varies."""


def sample(values: Sequence[float]) -> Sample:
    """Returns mean and spread of at least one number."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Sample(count=len(values), mean=statistics.fmean(values), std=std)


def welch(first: Sequence[float], second: Sequence[float]) -> Welch:
    """Returns the mean of `first` less that of `second`, and Welch's p."""
    difference = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Welch(difference=difference, p=None)
    parts = [statistics.variance(side) / len(side) for side in (first, second)]
    if not sum(parts):
        return Welch(difference=difference, p=None)
    t = difference / math.sqrt(sum(parts))
    # Welch-Satterthwaite; by shares of the sum, whose squares cannot underflow.
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(
        share**2 / (len(side) - 1) for share, side in zip(shares, (first, second), strict=True)
    )
    return Welch(difference=difference, p=two_sided_p(t, freedom))


def two_sided_p(t: float, freedom: float) -> float:
    """Returns the chance of a |T| of at least |t| under Student's t with `freedom` > 0 degrees."""
    if math.isinf(t):
        return 0.0
    square = t * t
    return _beta(freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square))


def _beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b); `rest` is 1 - x without cancellation."""
    if x <= 0:
        return 0.0
    if rest <= 0:
        return 1.0
    # The fraction converges fast on this side only; the other one is one less its mirror image.
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, rest, x)
    front = a * math.log(x) + b * math.log(rest)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) / a * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction (Thompson & Barnett 1986)."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / _not_zero(1 + step * d)
            c = _not_zero(1 + step / c)
            value *= d * c
        if abs(d * c - 1) < _EPS:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
