"""Exact rows: each value seen in training owns its rows, found through a vocabulary.

For small vocabularies inside a hashed table (`exact_below`, `exact = true`), and for all features
in the method `exact`, the collisionless baseline: the most accurate and the largest.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.errors import PlanError
from features.regions import Region
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations.budget import row_bytes, total_rows
from trainer.representations.groups import Group, group_features, placements

Vocabularies = dict[str, NDArray[np.uint64]]


def build(
    feature_set: FeatureSet, seen: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of the method `exact`.

    Its size follows from the vocabularies; a `budget` or `rows`, where given, is a bound that
    PlanError names when it is passed. Raises PlanError where a vocabulary is not known.
    """
    groups = group_features(feature_set, seen)
    vocabularies = {group.name: known_vocabulary(group) for group in groups}
    rows = sum(group.exact_rows(len(vocabularies[group.name])) for group in groups)
    allowed = total_rows(settings)
    if allowed is not None and rows > allowed:
        need = rows * row_bytes(settings.width)
        raise PlanError(
            f"exact rows for every value need {rows:,} rows ({need:,} bytes at width "
            f"{settings.width}), but the table may have {allowed:,}",
            f'raise table.budget to "{need} B", remove it, or write table.method = "unified"',
        )
    regions, names = exact_regions(groups, vocabularies, 0, settings.width)
    return Layout.assemble(
        width=settings.width,
        hash_seed=settings.hash_seed,
        regions=regions,
        placements=placements(feature_set, seen, names),
        vocabularies={names[name]: keys for name, keys in vocabularies.items()},
    )


def is_exact(group: Group, settings: TableSettings) -> bool:
    """Whether a group of a hashed table owns exact rows."""
    if group.owner.exact is not None:
        return group.owner.exact
    if settings.exact_below == 0:
        return False
    vocabulary = group.vocabulary()
    return vocabulary is not None and len(vocabulary) <= settings.exact_below


def known_vocabulary(group: Group) -> NDArray[np.uint64]:
    """The vocabulary of a group that has to have one; PlanError where it is not known."""
    vocabulary = group.vocabulary()
    if vocabulary is not None:
        return vocabulary
    if group.statistics is None:
        what = f'feature "{group.name}" is exact, but nothing is known of its values'
        raise PlanError(what, "give the statistics of a profile, or hash the feature")
    missing = next(
        member.name
        for member, seen in zip(group.members, group.statistics, strict=True)
        if seen.vocabulary is None
    )
    raise PlanError(
        f'feature "{missing}" is to be exact, but its profile holds no vocabulary of its '
        f"{group.cardinality:,} values",
        "profile the data with these settings again, or hash the feature",
    )


def exact_regions(
    groups: Sequence[Group],
    vocabularies: Vocabularies,
    base: int,
    width: int,
    counts: Mapping[str, int] | None = None,
) -> tuple[list[Region], dict[str, str]]:
    """Returns the regions of exact groups from row `base` on, and the region's name by group.

    `counts` are the rows of a value by group, where they are not its lookups.
    """
    regions = []
    names = {}
    for group in groups:
        names[group.name] = f"exact:{group.name}"
        count = None if counts is None else counts[group.name]
        rows = group.exact_rows(len(vocabularies[group.name]), count)
        regions.append(
            Region(name=names[group.name], kind="exact", base=base, rows=rows, width=width)
        )
        base += rows
    return regions, names
