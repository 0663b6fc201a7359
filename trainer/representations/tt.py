"""Tensor train (TT-Rec, Yin et al., MLSys 2021): a vector is a product of a small matrix a digit.

The digits are `table.lookups`, at least two, and the embedding is `table.width` wide: see
`features.readers.tensor_train`. The ranks, which are the width of the table's rows, are as large as
the budget allows.
"""

import math
from typing import Any

from features.errors import PlanError
from features.readers.tensor_train import core_rows
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.budget import BYTES_PER_FLOAT, total_rows
from trainer.representations.numbered import Numbered, Space, assemble, balanced, number

_MOST_RANK = 1024


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `tt`.

    Raises PlanError where the budget has no room for rank 1, or a vocabulary is not known.
    """
    digits = settings.num_lookups
    if digits < 2:
        raise PlanError(
            'table.method "tt" needs a matrix for each of at least two digits',
            "set table.lookups to 2 or more",
        )
    numbered = number(feature_set, seen, settings)
    dims = _dims(settings.width, digits)
    radices = {space.name: balanced(space.numbers, digits) for space in numbered.spaces}
    rank = _rank(numbered, radices, dims, settings)
    std = settings.init_scale / math.sqrt(3)
    # Each of rank^(K - 1) paths is a product of K numbers; their sum is to be as large as a row.
    gain = (std ** (1 - digits)) * rank ** (-(digits - 1) / 2) if std else 1.0

    def reader(space: Space, offset: int) -> dict[str, Any]:
        return {
            "kind": "tensor_train",
            "offset": offset,
            "radices": list(radices[space.name]),
            "dims": list(dims),
            "width": settings.width,
            "gain": gain,
        }

    return assemble(
        feature_set,
        seen,
        settings,
        numbered,
        width=rank,
        rows={name: _core_rows(each, dims, rank) for name, each in radices.items()},
        exact_count=-(-settings.width // rank),
        reader=reader,
    )


def _rank(
    numbered: Numbered,
    radices: dict[str, tuple[int, ...]],
    dims: tuple[int, ...],
    settings: TableSettings,
) -> int:
    """Returns the largest rank whose table fits into the budget."""

    def floats(rank: int) -> int:
        cores = sum(_core_rows(each, dims, rank) for each in radices.values())
        return rank * (cores + numbered.exact_rows(-(-settings.width // rank)))

    def fits(rank: int) -> bool:
        allowed = total_rows(settings, 1)
        return allowed is None or floats(rank) <= allowed

    if not fits(1):
        raise PlanError(
            f"a tensor train of rank 1 with {len(dims)} digits needs "
            f"{floats(1) * BYTES_PER_FLOAT:,} bytes, more than the table may have",
            f'raise table.budget to at least "{floats(1) * BYTES_PER_FLOAT} B", or give the '
            "numbers more digits (table.lookups)",
        )
    rank = 1
    # Not a bisection: exact rows are rounded up to whole rows, so a larger rank may be smaller.
    for each in range(2, _MOST_RANK + 1):
        if fits(each):
            rank = each
        elif floats(each) > 4 * floats(rank):
            break
    return rank


def _core_rows(radices: tuple[int, ...], dims: tuple[int, ...], rank: int) -> int:
    return sum(n * count for n, count in zip(radices, core_rows(dims, rank), strict=True))


def _dims(width: int, digits: int) -> tuple[int, ...]:
    """Returns factors of the width, as equal as can be; their product may be a little larger."""
    return tuple(sorted(balanced(width, digits), reverse=True))
