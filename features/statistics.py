"""What a pass over the training data learns of each feature: the facts layouts and transforms need.

`features.profile.Profile` composes these; what only needs the facts takes a `FeatureStatistics`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from features.heavy import HeavyHitters

KeyClass = Literal["int", "string"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CategoricalStatistics:
    """An embedded feature (categorical, list, sequence, cross, bucketized) as seen in training.

    `vocabulary` is the sorted, distinct keys of all values (nulls excluded), or None where there
    were more of them than the profile keeps; `display` says the same values for people, in the same
    order (it is outside any budget). `key_class` is None where every value was null, and always
    "int" for crosses and buckets, whose keys are made of other keys.
    """

    cardinality: int
    """Distinct values, nulls excluded; an estimate where `vocabulary` is None."""
    key_class: KeyClass | None
    rows: int
    """Rows looked at."""
    null_count: int
    """Rows that are null: null values, or null lists."""
    num_values: int
    """Values that are not null; for lists and sequences their elements."""
    vocabulary: NDArray[np.uint64] | None = None
    display: tuple[str, ...] | None = None
    max_length: int | None = None
    """Lists and sequences: the longest one."""
    popular: HeavyHitters | None = None
    """Its most frequent values, where the table asks for them."""

    def __post_init__(self) -> None:
        if self.vocabulary is None:
            if self.display is not None:
                raise ValueError("display strings without a vocabulary")
            return
        if self.vocabulary.dtype != np.uint64 or self.vocabulary.ndim != 1:
            raise ValueError("a vocabulary is a vector of uint64 keys")
        if not (self.vocabulary[1:] > self.vocabulary[:-1]).all():
            raise ValueError("a vocabulary's keys rise")
        if self.display is not None and len(self.display) != len(self.vocabulary):
            raise ValueError(f"{len(self.display)} names for {len(self.vocabulary)} keys")
        if self.cardinality != len(self.vocabulary):
            raise ValueError(f"cardinality {self.cardinality} of {len(self.vocabulary)} keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseStatistics:
    """A dense feature as seen in training; null and NaN are missing and left out of every number.

    `minimum` and `maximum` are of the raw values. `mean` and `std` (population) are of the values
    after clip and logarithm (`features.dense.clip_and_log`): what standardizing applies to.
    `edges` belongs to bucketized features: the distinct quantile edges of the raw values, rising;
    a value x falls into bucket searchsorted(edges, x, side="right").
    Where every value was missing, mean = 0, std = 0, minimum = maximum = None and edges = ().
    """

    rows: int
    missing_count: int
    minimum: float | None
    maximum: float | None
    mean: float
    std: float
    edges: tuple[float, ...] | None = field(default=None)


class FeatureStatistics(Protocol):
    """What layouts and transforms ask of a profile."""

    @property
    def categorical(self) -> Mapping[str, CategoricalStatistics]:
        """One for each of `FeatureSet.features`, by feature name."""

    @property
    def dense(self) -> Mapping[str, DenseStatistics]:
        """One for each of `FeatureSet.dense`, and for each bucketized feature, by feature name."""


def bucket_statistics(dense: DenseStatistics) -> CategoricalStatistics:
    """The buckets of a bucketized feature as categorical values 0..len(edges)."""
    edges = dense.edges or ()
    present = dense.rows - dense.missing_count
    num_buckets = len(edges) + 1 if present else 0
    bounds = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
    return CategoricalStatistics(
        cardinality=num_buckets,
        key_class="int",
        rows=dense.rows,
        null_count=dense.missing_count,
        num_values=present,
        vocabulary=np.arange(num_buckets, dtype=np.uint64),
        display=tuple(f"[{bounds[i]}, {bounds[i + 1]})" for i in range(num_buckets)),
    )
