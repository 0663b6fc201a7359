"""Who else lives in the rows of a value: looked up in files, for the command `lookup`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.accumulate import KeyedTable, feature_texts
from features.batches import KeyColumn
from features.columns import table_keys
from features.errors import ConfigError
from features.hashing import cross_keys, key_of
from features.parquet import Dataset
from features.routing import FeatureRoute, Layout
from features.scan import scan
from features.schema import FeatureSet
from features.statistics import KeyClass

# Regions whose rows belong to single values, or to those that a hash function put there.
_OF_VALUES = ("shared", "feature", "exact", "hot")


@dataclass(slots=True, kw_only=True)
class Residents:
    """What a file has in one row of a value."""

    row: int
    lookup: int
    """Which of the value's rows it is."""
    same: dict[int, str] = field(default_factory=dict)
    """Other values of the same feature, by key, as text: the model confuses these."""
    others: set[tuple[str, int]] = field(default_factory=set)
    """(feature, key) of values of other features or lookups: these it tells apart."""


@dataclass(slots=True, kw_only=True)
class Sighting:
    """What a pass over files found of a value."""

    rows: int
    """Rows in which the value stands."""
    residents: list[Residents]
    """For each row that other values may have by chance."""


def find_route(layout: Layout, name: str) -> FeatureRoute:
    """Returns a feature's route; raises ConfigError naming the nearest feature."""
    names = [route.name for route in layout.routes]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f'the run has no embedded feature "{name}"',
            f'did you mean "{near[0]}"?' if near else f"its features: {', '.join(names)}",
        )
    return layout[name]


def parse_value(layout: Layout, route: FeatureRoute, words: Sequence[str]) -> KeyColumn:
    """Returns the key of a value as typed: one word, or for a cross one for each part.

    No word at all is null. Raises ConfigError where a word does not fit the feature.
    """
    feature = route.feature
    if not words:
        if feature.kind == "cross":
            raise ConfigError(f"{feature.name} is a cross: it is never null", _expected(route))
        return KeyColumn(np.zeros(1, np.uint64), np.ones(1, np.uint8))
    num_expected = len(feature.parts) or 1
    if len(words) != num_expected:
        raise ConfigError(f"{feature.name} got {len(words)} values", _expected(route))
    if feature.kind == "cross":
        classes = layout.key_classes
        parts = [
            _key(part, word, classes.get(part))
            for part, word in zip(feature.parts, words, strict=True)
        ]
        return KeyColumn(cross_keys([(np.array([key], np.uint64), None) for key in parts]))
    if route.edges is not None:
        bucket = np.searchsorted(np.array(route.edges), _number(feature.name, words[0]), "right")
        return KeyColumn(np.array([bucket], np.uint64))
    return KeyColumn(np.array([_key(feature.name, words[0], route.key_class)], np.uint64))


def find_residents(
    dataset: Dataset, feature_set: FeatureSet, layout: Layout, route: FeatureRoute, value: KeyColumn
) -> Sighting:
    """Reads the files once and returns who shares the rows of a value.

    Rows that values share by design (a digit's, a network's, what rare values have in common) are
    left out.
    """
    targets = layout.rows_of(route.name, value)[:, 0]
    found = Sighting(
        rows=0,
        residents=[
            Residents(row=int(row), lookup=lookup)
            for lookup, row in enumerate(targets)
            if layout.region_of(int(row)).kind in _OF_VALUES
        ],
    )
    neighbours = []
    if found.residents:
        neighbours = [other for other in layout.routes if other.region == route.region]
    for step in scan(dataset, feature_set.feature_columns):
        columns = table_keys(
            step.table,
            feature_set,
            step.where,
            edges=layout.edges,
            key_classes=layout.key_classes,
        )
        found.rows += _count(columns[route.name], value)
        rows = KeyedTable(
            table=step.table,
            columns=columns,
            feature_set=feature_set,
            where=step.where,
            first_row=step.first_row,
        )
        for other in neighbours:
            keys = _distinct(columns[other.name])
            if keys.size:
                _add(found.residents, layout, route, other, keys, value, rows)
    return found


def _add(
    residents: Sequence[Residents],
    layout: Layout,
    route: FeatureRoute,
    other: FeatureRoute,
    keys: NDArray[np.uint64],
    value: KeyColumn,
    rows: KeyedTable,
) -> None:
    is_same = other.name == route.name
    is_null = value.nulls is not None and bool(value.nulls[0])
    placed = layout.rows_of(other.name, KeyColumn(keys))
    for resident in residents:
        for lookup, hit in enumerate(placed == resident.row):
            here = keys[hit]
            if is_same and not is_null:
                here = here[here != value.keys[0]]
            if not here.size:
                continue
            if is_same and lookup == resident.lookup:
                new = np.array([key for key in here if int(key) not in resident.same], np.uint64)
                if new.size:
                    resident.same |= feature_texts(new, route.feature, rows)
            else:
                resident.others |= {(other.name, int(key)) for key in here}


def _distinct(column: KeyColumn) -> NDArray[np.uint64]:
    keys = column.keys if column.nulls is None else column.keys[column.nulls == 0]
    return np.unique(keys)


def _count(column: KeyColumn, value: KeyColumn) -> int:
    nulls = np.zeros(len(column.keys), bool) if column.nulls is None else column.nulls == 1
    if value.nulls is not None and value.nulls[0]:
        return int(np.count_nonzero(nulls))
    return int(np.count_nonzero((column.keys == value.keys[0]) & ~nulls))


def _key(name: str, word: str, key_class: KeyClass | None) -> int:
    if key_class == "string":
        return key_of(word.encode("utf-8", "surrogateescape"))
    try:
        return key_of(int(word))
    except ValueError:
        raise ConfigError(
            f'{name} was trained on integers, and "{word}" is none',
            "dates are days since 1970, timestamps microseconds, booleans 0 and 1",
        ) from None


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f'{name} is a number, and "{word}" is none', "give a number") from None


def _expected(route: FeatureRoute) -> str:
    if route.feature.kind == "cross":
        return f"give a value for each part: {', '.join(route.feature.parts)}"
    return "give one value"
