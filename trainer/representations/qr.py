"""Quotient and remainder (Shi et al., KDD 2020) in mixed radix: a product of one row a digit.

The digits are `table.lookups`, and the embedding is one row wide: see `features.readers.product`.
The first digit gets all the rows the others can spare, since then fewest values share any row.
"""

import math
from typing import Any

from features.errors import PlanError
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.budget import apportion, row_bytes
from trainer.representations.numbered import Space, assemble, balanced, left_over, number


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `qr`.

    Raises PlanError where the budget has no room for a row of every digit, or a vocabulary is not
    known.
    """
    digits = settings.num_lookups
    numbered = number(feature_set, seen, settings)
    available = left_over(numbered, settings, settings.width, 1)
    floors = [sum(balanced(space.numbers, digits)) for space in numbered.spaces]
    if sum(floors) > available:
        need = (sum(floors) - available) * row_bytes(settings.width)
        raise PlanError(
            f"{sum(space.numbers for space in numbered.spaces):,} numbers of {digits} digits need "
            f"at least {sum(floors):,} rows, and {available:,} are left",
            f"raise table.budget by at least {need:,} bytes, lower table.width, or give the "
            "numbers more digits (table.lookups)",
        )
    shares = apportion(available, [space.numbers for space in numbered.spaces], floors)
    radices = {
        space.name: _radices(space.numbers, digits, rows)
        for space, rows in zip(numbered.spaces, shares, strict=True)
    }
    std = settings.init_scale / math.sqrt(3)

    def reader(space: Space, offset: int) -> dict[str, Any]:
        return {
            "kind": "product",
            "offset": offset,
            "radices": list(radices[space.name]),
            "gain": std ** (1 - digits) if std else 1.0,
        }

    return assemble(
        feature_set,
        seen,
        settings,
        numbered,
        width=settings.width,
        rows={name: sum(each) for name, each in radices.items()},
        exact_count=1,
        reader=reader,
    )


def _radices(numbers: int, digits: int, rows: int) -> tuple[int, ...]:
    """Returns the radices with the largest first one whose rows fit."""
    if digits == 1:
        return (numbers,)

    def of(first: int) -> tuple[int, ...]:
        return (first, *balanced(-(-numbers // first), digits - 1))

    low, high = balanced(numbers, digits)[0], min(numbers, rows)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(of(middle)) <= rows else (low, middle - 1)
    return of(low)
