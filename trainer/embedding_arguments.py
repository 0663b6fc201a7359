"""From the arguments of UnifiedEmbedding to the features and the table a job file would name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from features.errors import ConfigError
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeatureSettings, FeaturesSettings, TableSettings
from features.statistics import CategoricalStatistics, DenseStatistics, FeatureStatistics
from trainer.representations.registry import build_layout

Features = FeatureSet | Mapping[str, int] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Cardinalities:
    """Statistics of which only the numbers of distinct values are known."""

    categorical: Mapping[str, CategoricalStatistics]
    dense: Mapping[str, DenseStatistics]


def table_settings(arguments: Mapping[str, Any]) -> TableSettings:
    """Returns the settings of a table; ConfigError naming the argument that is wrong."""
    lookups = arguments["lookups"]
    if isinstance(lookups, str):
        raise ConfigError(
            f'UnifiedEmbedding: lookups is "{lookups}", which only a job chooses from its data',
            "give a number, or one for each feature: {name: lookups}",
        )
    try:
        return TableSettings(**arguments)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        name = ".".join(map(str, error["loc"]))
        raise ConfigError(
            f"UnifiedEmbedding: {name} is {error['input']!r}: "
            f"{error['msg'].removeprefix('Value error, ')}",
            str(TableSettings.model_fields[name].description),
        ) from exc


def feature_set_of(
    features: Features,
    lists: Mapping[str, str],
    sequences: Mapping[str, int],
    table: TableSettings,
) -> FeatureSet:
    """Returns the features named by simple arguments, or the set itself.

    Raises ConfigError where `lists` or `sequences` name what `features` does not, and as
    `FeatureSet.build`.
    """
    if isinstance(features, FeatureSet):
        if lists or sequences:
            raise ConfigError(
                "UnifiedEmbedding: lists and sequences are given beside a FeatureSet",
                "a FeatureSet says itself which features are lists; remove the arguments",
            )
        return features
    if isinstance(features, str):
        raise ConfigError(
            f'UnifiedEmbedding: features is the string "{features}"',
            f'give a list of names, as in ["{features}"]',
        )
    names = list(features)
    for argument, given in (("lists", lists), ("sequences", sequences)):
        for name in given:
            if name not in names:
                raise ConfigError(
                    f'UnifiedEmbedding: {argument} names "{name}", which is not among the features',
                    f"the features are {', '.join(names)}",
                )
    lookups = dict(features) if isinstance(features, Mapping) else {}
    return FeatureSet.build(
        None,
        FeaturesSettings(
            categorical=[name for name in names if name not in lists and name not in sequences],
            list=list(lists),
            sequence=list(sequences),
        ),
        {
            name: _feature_settings(name, lookups.get(name), lists.get(name), sequences.get(name))
            for name in names
        },
        table,
    )


def layout_of(
    feature_set: FeatureSet,
    table: TableSettings,
    statistics: FeatureStatistics | None,
    cardinalities: Mapping[str, int] | None,
) -> Layout:
    """Returns the layout; ConfigError where the arguments do not go together."""
    if statistics is not None and cardinalities is not None:
        raise ConfigError(
            "UnifiedEmbedding: statistics and cardinalities are both given",
            "give statistics, which hold the cardinalities",
        )
    if table.rows is None and table.budget is None and statistics is None:
        raise ConfigError(
            "UnifiedEmbedding: neither budget nor rows is given",
            'say what the table may cost, as in budget="64 MiB" or rows=1_000_000',
        )
    if cardinalities is not None:
        statistics = _statistics(feature_set, cardinalities)
    elif statistics is None and not table.multiplexed:
        raise ConfigError(
            "UnifiedEmbedding: multiplexed=False shares the rows by cardinality, which is unknown",
            "give cardinalities={feature: number of distinct values}",
        )
    return build_layout(feature_set, statistics, table)


def _feature_settings(
    name: str, lookups: int | None, pooling: str | None, max_length: int | None
) -> FeatureSettings:
    try:
        return FeatureSettings.model_validate(
            {"lookups": lookups, "pooling": pooling, "max_length": max_length}
        )
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        raise ConfigError(
            f'UnifiedEmbedding: {error["loc"][0]} of "{name}" is {error["input"]!r}: '
            f"{error['msg']}",
            "features = {name: lookups}, lists = {name: pooling}, sequences = {name: max_length}",
        ) from exc


def _statistics(feature_set: FeatureSet, cardinalities: Mapping[str, int]) -> Cardinalities:
    names = [feature.name for feature in feature_set.features]
    for name in names:
        if name not in cardinalities:
            raise ConfigError(
                f'UnifiedEmbedding: cardinalities does not name "{name}"',
                "give the number of distinct values of every feature",
            )
    for name, cardinality in cardinalities.items():
        if name not in names or isinstance(cardinality, bool) or not isinstance(cardinality, int):
            raise ConfigError(
                f'UnifiedEmbedding: cardinalities["{name}"] is {cardinality!r}',
                f"give a number for each of {', '.join(names)}",
            )
        if cardinality < 1:
            raise ConfigError(
                f'UnifiedEmbedding: cardinalities["{name}"] is {cardinality}',
                "give at least 1",
            )
    known = {
        name: CategoricalStatistics(
            cardinality=cardinalities[name], key_class=None, rows=0, null_count=0, num_values=0
        )
        for name in names
    }
    return Cardinalities(known, {})
