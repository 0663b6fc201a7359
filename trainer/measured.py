"""Collisions counted on the data: the values that features really have, and the rows they share.

One pass over at most MOST_ROWS rows, at most MOST_VALUES values of a feature: a report wants the
figures beside their forecast, not a second training's worth of reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.collisions import Collisions, measured_collisions
from features.columns import table_keys
from features.parquet import Dataset
from features.routing import Layout
from features.scan import scan
from features.schema import FeatureSet

MOST_ROWS = 2_000_000
MOST_VALUES = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The collisions of the hashed features, and the rows their values were taken from."""

    rows: int
    is_whole: bool
    """Whether all rows were looked at."""
    collisions: Mapping[str, Collisions]
    """By feature; features with more than MOST_VALUES values are left out."""


def measure(
    dataset: Dataset, feature_set: FeatureSet, layout: Layout, most_rows: int = MOST_ROWS
) -> Measured:
    """Counts same-feature collisions of the values in the first `most_rows` rows."""
    names = [route.name for route in layout.routes if route.vocabulary is None]
    distinct: dict[str, NDArray[np.uint64]] = {name: np.empty(0, np.uint64) for name in names}
    rows = 0
    if names:
        for step in scan(dataset, feature_set.feature_columns):
            columns = table_keys(step.table, feature_set, step.where, edges=layout.edges)
            for name, known in list(distinct.items()):
                column = columns[name]
                keys = column.keys if column.nulls is None else column.keys[column.nulls == 0]
                distinct[name] = np.union1d(known, keys)
                if len(distinct[name]) > MOST_VALUES:
                    del distinct[name]
            rows = step.first_row + step.table.num_rows
            if rows >= most_rows or not distinct:
                break
    return Measured(
        rows=rows,
        is_whole=rows == dataset.num_rows,
        collisions={
            name: measured_collisions(layout, name, keys) for name, keys in distinct.items()
        },
    )
