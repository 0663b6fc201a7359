from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.batches import KeyColumn
from features.errors import DataError
from features.parquet import open_dataset
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeatureSettings, FeaturesSettings, TableSettings
from trainer.inspection_values import ValueCounts, count_values
from trainer.representations.registry import build_layout

TABLE = TableSettings(rows=64, width=2, exact_below=0)


def layout_of(**features: object) -> Layout:
    last = {"clicks": FeatureSettings(pooling="last")} if "sequence" in features else {}
    declared = FeaturesSettings.model_validate(features)
    return build_layout(FeatureSet.build(None, declared, last, TABLE), None, TABLE)


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=30), max_size=6))
def test_counts_are_those_of_a_counter(chunks) -> None:
    expected = Counter(value for chunk in chunks for value in chunk)
    counts = ValueCounts()

    for chunk in chunks:
        keys = np.array([value or 0 for value in chunk], np.uint64)
        counts.add(KeyColumn(keys, np.array([value is None for value in chunk], np.uint8)))
    found = counts.values()

    nulls = found.column.nulls
    nulls = np.zeros(len(found.reads), np.uint8) if nulls is None else nulls
    keys = [None if n else int(k) for k, n in zip(found.column.keys, nulls, strict=True)]
    assert dict(zip(keys, found.reads.tolist(), strict=True)) == dict(expected)
    assert found.total == expected.total()
    assert keys[:-1] == sorted(keys[:-1])


def test_elements_of_lists_are_counted_and_of_histories_only_what_is_read(tmp_path) -> None:
    rows = pa.table(
        {
            "tags": pa.array([[1, 2], None, [], [2, None]]),
            "clicks": pa.array([[5, 6], [6], [7, 6], []]),
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    layout = layout_of(list=["tags"], sequence=["clicks"])

    counted = count_values(open_dataset("rows.parquet", tmp_path), layout)

    tags, clicks = counted.features["tags"], counted.features["clicks"]
    assert tags.column.keys.tolist() == [1, 2, 0]
    assert tags.column.nulls.tolist() == [0, 0, 1]
    assert tags.reads.tolist() == [1, 2, 1]
    assert (clicks.column.keys.tolist(), clicks.reads.tolist()) == ([6], [3])
    assert counted.rows == 4
    assert counted.is_whole


def test_rows_and_values_are_bounded(tmp_path) -> None:
    table = pa.table({"user": np.arange(900), "item": np.arange(900) % 7})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    dataset, layout = (
        open_dataset("rows.parquet", tmp_path),
        layout_of(categorical=["user", "item"]),
    )

    some = count_values(dataset, layout, most_rows=250)
    few = count_values(dataset, layout, most_values=300)

    assert (some.rows, some.is_whole) == (300, False)
    assert some.features["user"].total == 300
    assert set(some.features) == {"user", "item"}
    assert few.left_out == ("user",)
    assert set(few.features) == {"item"}


def test_values_of_another_class_are_refused(tmp_path) -> None:
    pq.write_table(pa.table({"item": [1.5]}), tmp_path / "rows.parquet")

    with pytest.raises(DataError, match="item"):
        count_values(open_dataset("rows.parquet", tmp_path), layout_of(categorical=["item"]))
