"""What becomes of every feature where an edited job carries a trained model on.

keeps     its rows and the tower's weights for it are the parent's
cold      it is new: its rows are whatever its hashes find, or fresh ones, and its weights are zero
dropped   the parent had it; its region of the table stays where it has one of its own
refused   old rows would be read by another rule, or by values of another meaning, and no error
          would ever show it
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, DataError
from features.parquet import Dataset
from features.profile import Profile
from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import TableSettings
from trainer.job import Job

Outcome = Literal["keeps", "cold", "dropped", "refused"]

# Settings that say what a row is and who reads it: fixed when a table is new.
_TABLE = ("method", "width", "hash_seed", "optimizer", "hot_rows", "frequent_values")
# What a feature's rows, or its columns in the tower, mean; by the key of the job file.
_EMBEDDED = {
    "kind": "kind",
    "parts": "parts",
    "num_lookups": "lookups",
    "salt_name": "shares",
    "derive": "derive",
    "pooling": "pooling",
    "buckets": "bucketize",
}
_DENSE = {name: name for name in ("kind", "log", "clip", "standardize", "missing", "fill")}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureChange:
    """What becomes of one feature."""

    name: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What becomes of all features, in the order of the job and then of the parent."""

    table: tuple[str, ...]
    """Settings of the table that cannot change."""
    features: tuple[FeatureChange, ...]

    @property
    def refusals(self) -> list[str]:
        """Everything that is refused, in words."""
        refused = [f"{each.name}: {each.reason}" for each in self.features if _is_refused(each)]
        return [*self.table, *refused]

    def check(self, parent: object) -> None:
        """Raises ConfigError where anything is refused."""
        if self.refusals:
            raise ConfigError(
                f'the job cannot carry on from "{parent}": {"; ".join(self.refusals)}',
                "put these back; or give the feature another name ([feature.NEW] column = ...), "
                "under which it starts cold; or train a new run from nothing",
            )

    def counts(self) -> dict[Outcome, int]:
        """Returns how many features have each outcome."""
        outcomes: tuple[Outcome, ...] = ("keeps", "cold", "dropped", "refused")
        found = [each.outcome for each in self.features]
        return {outcome: found.count(outcome) for outcome in outcomes}


def compare(
    old_job: Job,
    job: Job,
    layout: Layout,
    old_set: FeatureSet,
    feature_set: FeatureSet,
    profile: Profile,
    datasets: Mapping[str, Dataset],
) -> Changes:
    """Returns what becomes of every feature: `layout`, `old_set`, `profile` are the parent's."""
    old = {feature.name: feature for feature in (*old_set.features, *old_set.dense)}
    new = {feature.name: feature for feature in (*feature_set.features, *feature_set.dense)}
    changes = []
    for name, feature in new.items():
        if name not in old:
            changes.append(FeatureChange(name=name, outcome="cold"))
            continue
        reason = _difference(old[name], feature)
        if reason is None and feature.kind != "dense":
            reason = _moved(feature, layout, job.table) or _other_ids(
                feature, feature_set, profile, datasets
            )
        if reason is None:
            changes.append(FeatureChange(name=name, outcome="keeps"))
        else:
            changes.append(FeatureChange(name=name, outcome="refused", reason=reason))
    changes += [FeatureChange(name=name, outcome="dropped") for name in old if name not in new]
    return Changes(table=_table(old_job.table, job.table), features=tuple(changes))


def with_reasons(changes: Changes, layout: Layout, fresh: Profile) -> Changes:
    """Returns the changes, saying where the rows of each feature are in the new layout.

    `fresh` is the profile of the new data alone: values of exact features that only it has read
    the row of the unseen.
    """
    regions = {region.name: region for region in layout.regions}
    routes = {route.name: route for route in layout.routes}

    def said(change: FeatureChange) -> FeatureChange:
        if change.outcome == "dropped" and f"feature:{change.name}" in regions:
            return replace(change, reason="its region stays")
        if change.name not in routes:
            return change
        route = routes[change.name]
        region = regions[route.region]
        if route.vocabulary is not None:
            seen = fresh.categorical[change.name].vocabulary
            reason = f"exact rows ({region.rows:,}){_new_values(route.vocabulary, seen)}"
        elif region.name == "shared":
            reason = "the shared region"
        else:
            reason = f"a region of its own ({region.rows:,} rows)"
        return replace(change, reason=reason)

    return replace(changes, features=tuple(map(said, changes.features)))


def _new_values(known: NDArray[np.uint64], seen: NDArray[np.uint64] | None) -> str:
    if seen is None:
        return "; values it has none for read the row of the unseen"
    count = len(np.setdiff1d(seen, known, assume_unique=True))
    return f"; {count:,} new values read the row of the unseen" if count else ""


def _is_refused(change: FeatureChange) -> bool:
    return change.outcome == "refused"


def _table(old: TableSettings, new: TableSettings) -> tuple[str, ...]:
    keys = [*_TABLE]
    if old.method == "robe":
        keys.append("block")
    if old.method == "pq":
        keys.append("lookups")
    return tuple(
        f"table.{key} was {getattr(old, key)}, is {getattr(new, key)}"
        for key in keys
        if getattr(old, key) != getattr(new, key)
    )


def _difference(old: Feature, new: Feature) -> str | None:
    for field, key in (_DENSE if old.kind == new.kind == "dense" else _EMBEDDED).items():
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            if field == "salt_name":
                before, after = (None if each == old.name else each for each in (before, after))
            return f"{key} was {_shown(before)}, is {_shown(after)}"
    return None


def _moved(feature: Feature, layout: Layout, table: TableSettings) -> str | None:
    """Says where settings want rows elsewhere than they are; those that share rows are asked
    nothing, as the feature they share with decides."""
    if feature.salt_name != feature.name:
        return None
    route = layout[feature.name]
    kind = next(region.kind for region in layout.regions if region.name == route.region)
    if kind == "exact":
        return "it owns exact rows, and exact is false" if feature.exact is False else None
    if feature.exact:
        return "its rows are hashed, and exact is true"
    is_multiplexed = table.multiplexed if feature.multiplexed is None else feature.multiplexed
    if is_multiplexed and route.region != "shared":
        return "its rows are a region of its own, and multiplexed is true"
    if not is_multiplexed and route.region == "shared":
        return "its rows are in the shared region, and multiplexed is false"
    return None


def _other_ids(
    feature: Feature,
    feature_set: FeatureSet,
    profile: Profile,
    datasets: Mapping[str, Dataset],
) -> str | None:
    """Says where a column has strings for what was trained on integers, or the like."""
    alone = replace(feature_set, features=(feature,), dense=())
    classes = {feature.name: profile.categorical[feature.name].key_class}
    try:
        for dataset in datasets.values():
            dataset.check(alone, classes)
    except DataError as exc:
        return exc.what
    return None


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
