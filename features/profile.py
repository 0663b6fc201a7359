"""The profile: what one bounded pass over the training data learns, kept as `profile.json`.

It is made once, when a run is created, and never again for that run: layouts and transforms come
from it, so its digest stands in the manifest. It holds no row of the data, only counts, quantiles,
the vocabularies of small features (keys in base64, little-endian, and texts for people), and where
the table asks for popular values, the keys and counts of these.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from features.accumulate import CategoricalAccumulator, DenseAccumulator, KeyedTable
from features.columns import table_keys
from features.errors import SnapshotError
from features.hashing import HASH
from features.heavy import HeavyHitters
from features.labels import labels_of, weights_of
from features.parquet import Dataset
from features.scan import scan
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import (
    CategoricalStatistics,
    DenseStatistics,
    KeyClass,
    bucket_statistics,
)

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """The statistics of all features and of the label: a `FeatureStatistics`."""

    rows: int
    positives: int | None
    """Rows with label 1; None without a label."""
    weight_sum: float
    """Sum of the weights: the rows, where there are none."""
    positive_weight: float | None
    """Sum of the weights of the rows with label 1."""
    data_digest: str
    """`Dataset.digest` of the files that were read."""
    categorical: Mapping[str, CategoricalStatistics]
    dense: Mapping[str, DenseStatistics]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        return {
            "format": _FORMAT,
            "hash": HASH,
            "rows": self.rows,
            "positives": self.positives,
            "weight_sum": self.weight_sum,
            "positive_weight": self.positive_weight,
            "data_digest": self.data_digest,
            "categorical": {name: _categorical(seen) for name, seen in self.categorical.items()},
            "dense": {name: dataclasses.asdict(seen) for name, seen in self.dense.items()},
        }

    def to_bytes(self) -> bytes:
        """The canonical text of `profile.json`: equal profiles are equal byte for byte."""
        text = json.dumps(self.to_json(), sort_keys=True, allow_nan=False, separators=(",", ":"))
        return text.encode()

    def digest(self) -> str:
        """Returns the sha256 of the canonical text."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_json(cls, tree: Any) -> "Profile":
        """Reads `to_json` back; SnapshotError where it is anything else."""
        try:
            stored = _ADAPTER.validate_json(json.dumps(tree, allow_nan=False))
            if (stored.format, stored.hash) != (_FORMAT, HASH):
                raise ValueError(f"format {stored.format} with hash {stored.hash!r}")
            return cls(
                rows=stored.rows,
                positives=stored.positives,
                weight_sum=stored.weight_sum,
                positive_weight=stored.positive_weight,
                data_digest=stored.data_digest,
                categorical={name: seen.read() for name, seen in stored.categorical.items()},
                dense=stored.dense,
            )
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            detail = f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            raise _damaged(detail) from exc
        except ValueError as exc:
            raise _damaged(str(exc)) from exc

    @classmethod
    def from_bytes(cls, text: bytes) -> "Profile":
        """Reads `to_bytes` back; SnapshotError where it is anything else."""
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, RecursionError) as exc:
            raise _damaged(str(exc)) from exc


# Methods that number all values of a feature.
_WHOLE_VOCABULARIES = ("exact", "qr", "tt")


def build_profile(
    dataset: Dataset,
    feature_set: FeatureSet,
    settings: TableSettings,
    progress: Progress | None = None,
) -> Profile:
    """Reads all rows once and returns their statistics, in memory that the rows do not enlarge.

    Vocabularies are kept up to `exact_below` values, and whole for exact features. Raises DataError
    naming file, column and row of the first value that cannot be trained on, and PlanError where an
    exact feature has too many values.
    """
    dataset.check(feature_set)
    exact = _exact_names(feature_set, settings)
    categorical = {
        feature.name: CategoricalAccumulator(
            feature,
            keep=settings.exact_below,
            is_exact=feature.name in exact,
            popular=settings.popular_values,
        )
        for feature in feature_set.features
        if feature.kind != "bucketized"
    }
    dense = {
        feature.name: DenseAccumulator(feature)
        for feature in (*feature_set.features, *feature_set.dense)
        if feature.kind in ("dense", "bucketized")
    }
    labels = _LabelCounts(feature_set)
    for step in scan(dataset, feature_set.columns):
        rows = KeyedTable(
            table=step.table,
            columns=table_keys(step.table, feature_set, step.where, edges={}),
            feature_set=feature_set,
            where=step.where,
            first_row=step.first_row,
        )
        labels.add(rows)
        for counted in categorical.values():
            counted.add(rows)
        for measured in dense.values():
            measured.add(rows)
        if progress is not None:
            progress(step.first_row + step.table.num_rows, dataset.num_rows)
    numbers = {name: accumulator.result() for name, accumulator in dense.items()}
    return Profile(
        rows=dataset.num_rows,
        positives=labels.positives,
        weight_sum=labels.weight_sum,
        positive_weight=labels.positive_weight,
        data_digest=dataset.digest(),
        categorical={
            feature.name: bucket_statistics(numbers[feature.name])
            if feature.kind == "bucketized"
            else categorical[feature.name].result()
            for feature in feature_set.features
        },
        dense=numbers,
    )


def _exact_names(feature_set: FeatureSet, settings: TableSettings) -> set[str]:
    """The features that own exact rows at any cardinality, with those that share their rows."""
    if settings.method in _WHOLE_VOCABULARIES:
        return {feature.name for feature in feature_set.features}
    salts = {feature.salt_name for feature in feature_set.features if feature.exact}
    return {feature.name for feature in feature_set.features if feature.salt_name in salts}


class _LabelCounts:
    """Counts labels and weights."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self._label, self._weight = feature_set.label, feature_set.weight
        self.positives = None if self._label is None else 0
        self.positive_weight = None if self._label is None else 0.0
        self.weight_sum = 0.0

    def add(self, rows: KeyedTable) -> None:
        """Takes the rows of a table; DataError names the row of a bad label or weight."""
        table = rows.table
        weights = np.ones(table.num_rows)
        if self._weight is not None:
            found = weights_of(table.column(self._weight), self._weight, rows.where)
            weights = found.astype(np.float64)
        self.weight_sum += float(weights.sum())
        if self._label is not None:
            is_one = labels_of(table.column(self._label), self._label, rows.where) == 1
            self.positives = (self.positives or 0) + int(np.count_nonzero(is_one))
            self.positive_weight = (self.positive_weight or 0.0) + float(weights[is_one].sum())


def _categorical(seen: CategoricalStatistics) -> dict[str, Any]:
    # dataclasses.asdict would copy a vocabulary of millions.
    tree = {f.name: getattr(seen, f.name) for f in dataclasses.fields(seen)}
    if seen.vocabulary is not None:
        tree["vocabulary"] = _base64(seen.vocabulary.astype("<u8"))
    if seen.popular is None:
        del tree["popular"]
    else:
        tree["popular"] = {
            "keys": _base64(seen.popular.keys.astype("<u8")),
            "counts": _base64(seen.popular.counts.astype("<i8")),
            "error": seen.popular.error,
        }
    return tree


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredPopular:
    """`HeavyHitters` as they stand in JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    keys: str
    counts: str
    error: int

    def read(self) -> HeavyHitters:
        """Returns the values; ValueError where they contradict each other."""
        return HeavyHitters(
            keys=_keys(self.keys), counts=_keys(self.counts).astype(np.int64), error=self.error
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredCategorical:
    """`CategoricalStatistics` as it stands in JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    cardinality: int
    key_class: KeyClass | None
    rows: int
    null_count: int
    num_values: int
    vocabulary: str | None
    display: tuple[str, ...] | None
    max_length: int | None
    popular: _StoredPopular | None = None

    def read(self) -> CategoricalStatistics:
        """Returns the statistics; ValueError where they contradict each other."""
        return CategoricalStatistics(
            cardinality=self.cardinality,
            key_class=self.key_class,
            rows=self.rows,
            null_count=self.null_count,
            num_values=self.num_values,
            vocabulary=None if self.vocabulary is None else _keys(self.vocabulary),
            display=self.display,
            max_length=self.max_length,
            popular=None if self.popular is None else self.popular.read(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A profile as it stands in JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: int
    hash: str
    rows: int
    positives: int | None
    weight_sum: float
    positive_weight: float | None
    data_digest: str
    categorical: dict[str, _StoredCategorical]
    dense: dict[str, DenseStatistics]


_ADAPTER = TypeAdapter(_Stored)


def _keys(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<u8").astype(np.uint64)


def _damaged(detail: str) -> SnapshotError:
    return SnapshotError(
        f"the profile is damaged or foreign: {detail}",
        "take the profile.json of the run, or make a new run",
    )
