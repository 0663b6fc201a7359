"""Features that share rows belong together: one region, exact for all or for none.

A group is a feature and those whose `shares` names it. Its rows are decided by that feature: the
class of the keys is common, the vocabulary is that of all, the cardinality that of the largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError, PlanError
from features.regions import Placement, exact_rows
from features.schema import Feature, FeatureSet
from features.statistics import CategoricalStatistics, FeatureStatistics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Features with common rows, and what training saw of them (nothing where it was not asked)."""

    owner: Feature
    members: tuple[Feature, ...]
    statistics: tuple[CategoricalStatistics, ...] | None

    @property
    def name(self) -> str:
        """The name of the feature that decides."""
        return self.owner.name

    @property
    def cardinality(self) -> int:
        """Distinct values, as far as known: of the largest member; 0 where nothing is."""
        return max((seen.cardinality for seen in self.statistics or ()), default=0)

    def vocabulary(self) -> NDArray[np.uint64] | None:
        """The sorted keys of all values; None where a member's are not known."""
        if self.statistics is None:
            return None
        keys = [seen.vocabulary for seen in self.statistics]
        known = [vocabulary for vocabulary in keys if vocabulary is not None]
        return np.unique(np.concatenate(known)) if len(known) == len(keys) else None

    def exact_rows(self, num_values: int, count: int | None = None) -> int:
        """The rows of the group when it is exact, `count` (unset: its lookups) for each value."""
        return exact_rows(num_values, self.owner.num_lookups if count is None else count)


def group_features(feature_set: FeatureSet, seen: FeatureStatistics | None) -> list[Group]:
    """Returns the groups of all embedded features, in the order of their deciding features.

    Raises DataError where features that share rows have keys of two classes.
    """
    groups = []
    for owner in feature_set.features:
        if owner.salt_name != owner.name:
            continue
        members = tuple(one for one in feature_set.features if one.salt_name == owner.name)
        statistics = None
        if seen is not None:
            statistics = tuple(seen.categorical[member.name] for member in members)
            _check_classes(members, statistics)
        groups.append(Group(owner=owner, members=members, statistics=statistics))
    return groups


def placements(
    feature_set: FeatureSet, seen: FeatureStatistics | None, regions: dict[str, str]
) -> list[Placement]:
    """Returns the placement of every feature; `regions` names the region of each group."""
    placed = []
    for feature in feature_set.features:
        edges = None
        if feature.kind == "bucketized":
            if seen is None:
                raise PlanError(
                    f'feature "{feature.name}" is bucketized, which takes quantiles of the data',
                    "give the statistics of a profile, or cut the values into buckets before",
                )
            edges = seen.dense[feature.name].edges or ()
        placed.append(
            Placement(
                feature=feature,
                region=regions[feature.salt_name],
                key_class=None if seen is None else seen.categorical[feature.name].key_class,
                edges=edges,
            )
        )
    return placed


def _check_classes(members: Sequence[Feature], seen: Sequence[CategoricalStatistics]) -> None:
    classes = [(m, s.key_class) for m, s in zip(members, seen, strict=True) if s.key_class]
    for member, key_class in classes:
        if key_class != classes[0][1]:
            raise DataError(
                f'feature "{member.name}" shares the rows of "{member.salt_name}", but one '
                f"column holds {key_class} ids and the other {classes[0][1]} ids",
                f"store both as one type, or remove feature.{member.name}.shares",
            )
