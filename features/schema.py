"""The features of a model: what each is, which columns it reads, how many rows a value looks up.

A `FeatureSet` is built from a job file's settings, where every mistake is refused, or read back
from a manifest. It knows nothing of the data: what was seen of it is in `features.statistics`.
"""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from features.errors import SnapshotError
from features.settings import FeatureSettings, FeaturesSettings, TableSettings

Kind = Literal["categorical", "list", "sequence", "cross", "bucketized", "dense"]
Derive = Literal["hour", "weekday", "day"]
Pooling = Literal["mean", "sum", "last"]

# The order of the features in the embedding and in the table (fixed).
LAYOUT_ORDER: tuple[Kind, ...] = ("categorical", "list", "sequence", "cross", "bucketized")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature, with every default resolved."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    kind: Kind
    columns: tuple[str, ...]
    """The input column; for a cross those of its parts, in their order."""
    parts: tuple[str, ...] = ()
    """Cross: the categorical features that are hashed together, in order."""
    num_lookups: Annotated[int, Field(ge=0)] = 0
    """Rows read for each value; 0 for dense."""
    salt_name: str = ""
    """The name the hash functions come from: the feature's own, or of the one it shares with."""
    exact: bool | None = None
    multiplexed: bool | None = None
    derive: Derive | None = None
    pooling: Pooling | None = None
    """List: mean or sum. Sequence: mean or last. Other kinds: None."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """Sequence: the newest values kept; None keeps all."""
    buckets: Annotated[int, Field(ge=1)] | None = None
    """Bucketized: quantile buckets asked for."""
    log: Literal["log1p", "signed"] | None = None
    clip: tuple[float, float] | None = None
    standardize: bool = True
    missing: bool | None = None
    fill: float | None = None

    @property
    def is_bag(self) -> bool:
        """Whether a sample has many values, pooled into one vector."""
        return self.kind in ("list", "sequence")

    @property
    def column(self) -> str:
        """The one input column; a cross has several and no such thing."""
        (column,) = self.columns
        return column


class Labelled(Protocol):
    """The part of `DataSettings` that names columns."""

    @property
    def label(self) -> str:
        """Column of the label."""

    @property
    def weight(self) -> str | None:
        """Column of the sample weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSet:
    """All features of a model, in layout order, with the columns of label and weight."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    features: tuple[Feature, ...]
    """The embedded ones: categorical, list, sequence, cross, bucketized, each in declared order."""
    dense: tuple[Feature, ...] = ()
    label: str | None = None
    weight: str | None = None

    @classmethod
    def build(
        cls,
        data: Labelled | None,
        features: FeaturesSettings,
        feature: dict[str, FeatureSettings],
        table: TableSettings,
    ) -> Self:
        """Resolves the settings of a job; raises ConfigError naming the key of the first mistake.

        `data` names label and weight; None where a model has neither, as in a stranger's own loop.
        """
        from features.declaration import resolve

        embedded, dense = resolve(data, features, feature, table)
        label, weight = (None, None) if data is None else (data.label, data.weight)
        return cls(features=embedded, dense=dense, label=label, weight=weight)

    @property
    def univalent(self) -> tuple[Feature, ...]:
        """The embedded features with one value a sample: the rows of `KeyBatch.matrix`."""
        return tuple(feature for feature in self.features if not feature.is_bag)

    @property
    def bags(self) -> tuple[Feature, ...]:
        """The embedded features with many values a sample, in order."""
        return tuple(feature for feature in self.features if feature.is_bag)

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The input columns the features read, each once, in order of first use."""
        names = (c for feature in (*self.features, *self.dense) for c in feature.columns)
        return tuple(dict.fromkeys(names))

    @property
    def columns(self) -> tuple[str, ...]:
        """All input columns, each once: of the features, then label and weight."""
        extra = (name for name in (self.label, self.weight) if name is not None)
        return tuple(dict.fromkeys((*self.feature_columns, *extra)))

    def __getitem__(self, name: str) -> Feature:
        """The feature of that name, embedded or dense; KeyError if there is none."""
        for feature in (*self.features, *self.dense):
            if feature.name == name:
                return feature
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for manifests; `from_json` reads it back."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "FeatureSet":
        """Reads `to_json` back; raises SnapshotError where it is anything else."""
        try:
            feature_set = _ADAPTER.validate_json(json.dumps(tree))
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            key = ".".join(map(str, error["loc"]))
            raise _foreign(f"{key}: {error['msg']}") from exc
        everything = (*feature_set.features, *feature_set.dense)
        names = {feature.name for feature in everything}
        if len(names) < len(everything):
            raise _foreign("two features have one name")
        if not names.issuperset(part for feature in everything for part in feature.parts):
            raise _foreign("a cross has a part that is no feature")
        return feature_set


def _foreign(detail: str) -> SnapshotError:
    return SnapshotError(
        f"the feature schema is damaged or foreign: {detail}",
        "read a manifest that this version of muxtable wrote",
    )


_ADAPTER = TypeAdapter(FeatureSet)
