"""Statistics of one feature, taken up table by table in the order of the data."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.dense import clip_and_log, numbers_of
from features.display import texts_of
from features.errors import DataError, PlanError
from features.heavy import HeavyCounter
from features.ids import key_class
from features.schema import Feature, FeatureSet
from features.sketch import (
    DISTINCT_KEYS,
    DistinctKeys,
    Keys,
    RowSample,
    distinct,
    quantile_edges,
    row_priorities,
)
from features.statistics import CategoricalStatistics, DenseStatistics, KeyClass
from native.order import derive

# Values of one feature that may own exact rows: their keys take 128 MiB while they are counted.
MAX_VOCABULARY = 1 << 24
# Vocabularies larger than this go without texts for people.
MAX_TEXTS = 100_000
# Counters for each popular value that is wanted: a count is then off by little.
_SPARE = 4
_SAMPLE_KEY = derive("profile sample", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedTable:
    """A table of the pass with the keys of its features."""

    table: Any
    columns: dict[str, KeyColumn]
    feature_set: FeatureSet
    where: str
    first_row: int


class CategoricalAccumulator:
    """Statistics of one embedded feature; its vocabulary is kept up to `keep` values.

    Where the feature `is_exact`, every value owns rows and the whole vocabulary is kept. The
    `popular` most frequent values are counted (none by default).
    """

    def __init__(self, feature: Feature, *, keep: int, is_exact: bool, popular: int = 0) -> None:
        self._feature = feature
        self._keep = MAX_VOCABULARY if is_exact else keep
        self._is_exact = is_exact
        self._distinct = DistinctKeys(max(DISTINCT_KEYS, self._keep))
        self._texts: dict[int, str] | None = {} if self._keep else None
        self._num_popular = popular
        self._heavy = HeavyCounter(max(DISTINCT_KEYS, _SPARE * popular)) if popular else None
        self._named: Keys = np.empty(0, np.uint64)  # the keys of _texts, sorted
        self._class: KeyClass | None = "int" if feature.kind == "cross" else None
        self._rows = self._null_count = self._num_values = self._max_length = 0

    def add(self, rows: KeyedTable) -> None:
        """Takes the rows of a table; PlanError where an exact feature has too many values."""
        column = rows.columns[self._feature.name]
        present = column.keys if column.nulls is None else column.keys[column.nulls == 0]
        self._rows += rows.table.num_rows
        self._num_values += len(present)
        self._null_count += len(column.keys) - len(present)
        if column.offsets is not None:
            self._max_length = max(self._max_length, _longest(column, column.offsets))
        if self._class is None:
            arrow_type = rows.table.schema.field(self._feature.column).type
            self._class = key_class(arrow_type, self._feature.column, rows.where)
        found = distinct(present)
        self._distinct.add(found)
        if self._heavy is not None:
            self._heavy.add(present)
        if self._is_exact and self._distinct.has_dropped:
            self._refuse_size()
        if self._texts is not None:
            self._name(found, rows, self._texts)

    def result(self) -> CategoricalStatistics:
        """Returns what was seen."""
        cardinality = self._distinct.estimate()
        vocabulary = display = None
        if self._is_exact and not self._distinct.is_exact:
            self._refuse_size()
        if self._keep and cardinality <= self._keep and self._distinct.is_exact:
            vocabulary = self._distinct.keys()
            if self._texts is not None:
                display = tuple(self._texts[int(key)] for key in vocabulary)
        return CategoricalStatistics(
            cardinality=cardinality,
            key_class=self._class,
            rows=self._rows,
            null_count=self._null_count,
            num_values=self._num_values,
            vocabulary=vocabulary,
            display=display,
            max_length=self._max_length if self._feature.is_bag else None,
            popular=None if self._heavy is None else self._heavy.result(self._num_popular),
        )

    def _name(self, found: Keys, rows: KeyedTable, texts: dict[int, str]) -> None:
        """Finds texts for keys seen for the first time, or gives up where there are too many."""
        new = np.setdiff1d(found, self._named, assume_unique=True)
        if not len(new):
            return
        if len(texts) + len(new) > min(self._keep, MAX_TEXTS):
            self._texts = None
            return
        texts |= feature_texts(new, self._feature, rows)
        self._named = np.union1d(self._named, new)

    def _refuse_size(self) -> None:
        raise PlanError(
            f'feature "{self._feature.name}" has more than {MAX_VOCABULARY:,} values, too many for '
            "exact rows",
            "hash it: with another table.method than exact, and without "
            f"feature.{self._feature.name}.exact",
        )


def _longest(column: KeyColumn, offsets: NDArray[np.int64]) -> int:
    """The length of the longest list that is not null; a null list stands as one null."""
    lengths = np.diff(offsets)
    if column.nulls is not None:
        filled = np.flatnonzero(lengths)
        lengths[filled[column.nulls[offsets[filled]] == 1]] = 0
    return int(lengths.max(initial=0))


def feature_texts(keys: Keys, feature: Feature, rows: KeyedTable) -> dict[int, str]:
    """Returns the text of each key of a feature; those of a cross join the texts of its parts."""
    if feature.kind != "cross":
        return texts_of(keys, rows.table.column(feature.column), feature, rows.where)
    crossed, first = np.unique(rows.columns[feature.name].keys, return_index=True)
    places = first[np.searchsorted(crossed, keys)]
    parts = [
        _part_texts(rows.feature_set[name], rows.columns[name], places, rows)
        for name in feature.parts
    ]
    return {int(key): " x ".join(texts) for key, *texts in zip(keys, *parts, strict=True)}


def _part_texts(
    part: Feature, column: KeyColumn, places: NDArray[np.int64], rows: KeyedTable
) -> list[str]:
    is_null = np.zeros(len(places), bool) if column.nulls is None else column.nulls[places] == 1
    keys = column.keys[places]
    known = feature_texts(distinct(keys[~is_null]), part, rows)
    return ["null" if null else known[int(key)] for key, null in zip(keys, is_null, strict=True)]


class DenseAccumulator:
    """Statistics of one dense or bucketized feature."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self._moments = Moments()
        self._rows = self._missing_count = 0
        self._minimum, self._maximum = math.inf, -math.inf
        self._sample = None if feature.buckets is None else RowSample()

    def add(self, rows: KeyedTable) -> None:
        """Takes the rows of a table; DataError names column and row of an infinity."""
        column = self._feature.column
        values, missing = numbers_of(rows.table.column(column), column, rows.where)
        self._rows += len(values)
        present = np.arange(len(values))
        if missing is not None:
            present = np.flatnonzero(~missing)
            self._missing_count += len(values) - len(present)
            values = values[present]
        if not len(values):
            return
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))
        if self._sample is not None:
            priorities = row_priorities(rows.first_row, rows.table.num_rows, _SAMPLE_KEY)
            self._sample.add(values, priorities[present])
        self._moments.add(clip_and_log(self._feature, values.copy(), None))

    def result(self) -> DenseStatistics:
        """Returns what was seen; DataError where the numbers are too large to be averaged."""
        has_values = self._rows > self._missing_count
        edges = None
        if self._sample is not None and self._feature.buckets is not None:
            edges = quantile_edges(self._sample.values(), self._feature.buckets)
        mean, std = self._moments.mean, self._moments.std
        if not (math.isfinite(mean) and math.isfinite(std)):
            raise DataError(
                f'dense column "{self._feature.column}" reaches from {self._minimum:g} to '
                f"{self._maximum:g}: too far for a mean and a standard deviation",
                f'bound it by feature.{self._feature.name}.clip, or set its log to "signed"',
            )
        return DenseStatistics(
            rows=self._rows,
            missing_count=self._missing_count,
            minimum=self._minimum if has_values else None,
            maximum=self._maximum if has_values else None,
            mean=mean,
            std=std,
            edges=edges,
        )


@dataclass(slots=True)
class Moments:
    """Mean and deviation of numbers that come in parts, without cancellation (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = field(default=0.0)

    def add(self, values: NDArray[np.float64]) -> None:
        """Takes numbers, at least one."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values.mean())
            squares = float(((values - mean) ** 2).sum())
        count = self.count + len(values)
        step = mean - self.mean
        self._squares += squares + step * step * (self.count * len(values) / count)
        self.mean += step * (len(values) / count)
        self.count = count

    @property
    def std(self) -> float:
        """The deviation of the population, 0 before anything was taken."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0
