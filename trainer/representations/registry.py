"""The methods by name, and the one way from settings to a layout."""

from collections.abc import Callable

from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from trainer.representations import (
    dhe,
    exact,
    hash_embedding,
    hashednet,
    pq,
    qr,
    robe,
    tt,
    unified,
)

Build = Callable[[FeatureSet, FeatureStatistics | None, TableSettings], Layout]

METHODS: dict[str, Build] = {
    "unified": unified.build,
    "hash": unified.build,
    "hash_embedding": hash_embedding.build,
    "pq": pq.build,
    "qr": qr.build,
    "hashednet": hashednet.build,
    "robe": robe.build,
    "dhe": dhe.build,
    "tt": tt.build,
    "exact": exact.build,
}


def build_layout(
    feature_set: FeatureSet, statistics: FeatureStatistics | None, settings: TableSettings
) -> Layout:
    """Returns the layout of a table: its regions, and the way of every feature's values to rows.

    `statistics` is the profile of the training data; without one (a stranger's own loop, which has
    none) features can only be hashed and multiplexed. Raises ConfigError, DataError or PlanError.
    """
    return METHODS[settings.method](feature_set, statistics, settings)
