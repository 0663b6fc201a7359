"""How many lookups each feature gets where the job leaves that open: `table.lookups = "auto"`.

    p      chance that a value meets another of its feature in one lookup (`features.collisions`)
    p^c    ... in all c lookups: then nothing tells the two apart
    auto   the smallest c in 1..4 with p^c <= 1 %; 2 where none is enough

The 2 was set after ML-1M at 158 kB, one seed, had a test AUC of .8775 with 4 for such features,
.8812 with 2 for all; why 4 was worse was not looked into.

Rows are as many whatever is chosen; what changes is the width of the embedding. A feature with
exact rows has one lookup, one that says itself how many keeps its number. `trainer.pilot` chooses
by what the features are worth.
"""

from collections.abc import Mapping

from features.collisions import expected_collisions
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import START_LOOKUPS, FeatureSettings
from features.statistics import FeatureStatistics
from trainer.job import Job
from trainer.representations.registry import build_layout

MOST_LOOKUPS = 4
_LOST = 0.01


def feature_set_of(job: Job) -> FeatureSet:
    """Returns the features of a job; those whose lookups are open have the number to start from."""
    return FeatureSet.build(job.data, job.features, job.feature, job.table)


def open_features(job: Job, feature_set: FeatureSet) -> tuple[str, ...]:
    """Returns the features whose lookups are still to be chosen; those that share follow."""
    if isinstance(job.table.lookups, int):
        return ()
    return tuple(
        feature.name
        for feature in feature_set.features
        if feature.salt_name == feature.name
        and job.feature.get(feature.name, FeatureSettings()).lookups is None
    )


def with_lookups(job: Job, chosen: Mapping[str, int]) -> Job:
    """Returns the job with the chosen numbers as those of its features."""
    feature = dict(job.feature)
    for name, count in chosen.items():
        settings = feature.get(name, FeatureSettings())
        feature[name] = settings.model_copy(update={"lookups": count})
    return job.model_copy(update={"feature": feature})


def inherited(job: Job, known: FeatureSet) -> dict[str, int]:
    """Returns the lookups of the open features of a job that carries another one on: of those it
    knew what they had, of others what a choice starts from."""
    had = {feature.name: feature.num_lookups for feature in known.features}
    names = open_features(job, feature_set_of(job))
    return {name: had.get(name, START_LOOKUPS) for name in names}


def meeting(layout: Layout, statistics: FeatureStatistics, name: str) -> float:
    """Returns p of a feature: 0 where each of its values owns rows."""
    route = layout[name]
    if not route.lookups or route.vocabulary is not None:
        return 0.0
    hot = 0 if route.popular is None or route.popular.hot is None else len(route.popular.hot.keys)
    values = statistics.categorical[name].cardinality - hot
    return expected_collisions(values, route.region_rows, 1)[1]


def by_cardinality(job: Job, statistics: FeatureStatistics) -> dict[str, int]:
    """Returns the lookups of the open features by their cardinality alone."""
    feature_set = feature_set_of(job)
    names = open_features(job, feature_set)
    if not names:
        return {}
    layout = build_layout(feature_set, statistics, job.table)
    return {name: _enough(meeting(layout, statistics, name)) for name in names}


def foreseen(
    job: Job, statistics: FeatureStatistics, recorded: Mapping[str, int] | None = None
) -> Job:
    """Returns the job with the lookups it will have, those of its run where they are `recorded`.

    What nothing but training can say, a pilot's choice, is left at what it starts from.
    """
    if recorded is not None:
        names = open_features(job, feature_set_of(job))
        job = with_lookups(job, {name: recorded[name] for name in names if name in recorded})
    if job.table.lookups == "auto":
        return with_lookups(job, by_cardinality(job, statistics))
    return job


def _enough(meets: float) -> int:
    counts = range(1, MOST_LOOKUPS + 1)
    return next((count for count in counts if meets**count <= _LOST), START_LOOKUPS)
