import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import DataError
from features.parquet import open_dataset
from features.summary import profile_columns

ROWS = 400
LABELS = [i % 3 == 0 for i in range(ROWS)]


def summaries(folder, label="click", **columns):
    """The summaries of one file with these columns, by name."""
    content = pa.table({"click": LABELS} | columns)
    pq.write_table(content, folder / "a.parquet", row_group_size=150)
    found = profile_columns(open_dataset("*.parquet", folder), label)
    return {summary.name: summary for summary in found}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([i % 7 for i in range(ROWS)], pa.int8()), ("integers", False, 7)),
        (pa.array([i % 2 == 0 for i in range(ROWS)]), ("booleans", False, 2)),
        (pa.array([f"v{i % 9}" for i in range(ROWS)]), ("strings", False, 9)),
        (pa.array([f"v{i % 9}" for i in range(ROWS)]).dictionary_encode(), ("strings", False, 9)),
        (pa.array([i % 11 / 2 for i in range(ROWS)]), ("numbers", False, 11)),
        (pa.array([decimal.Decimal(i % 5) for i in range(ROWS)]), ("numbers", False, 5)),
        (pa.array([datetime.date(2024, 1, 1 + i % 4) for i in range(ROWS)]), ("dates", False, 4)),
        (pa.array([i % 6 for i in range(ROWS)], pa.timestamp("ms")), ("timestamps", False, 6)),
        (pa.array([[i % 3, 7] for i in range(ROWS)]), ("integers", True, 4)),
        (pa.array([["a"] * (i % 3) for i in range(ROWS)]), ("strings", True, 1)),
        (pa.nulls(ROWS), ("none", False, 0)),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_column_is_told_by_what_it_holds(tmp_path, values, said):
    summary = summaries(tmp_path, x=values)["x"]

    assert (summary.values, summary.is_list, summary.cardinality) == said
    assert summary.problem is None
    assert summary.rows == ROWS


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (pa.array([{"a": 1}] * ROWS), "holds struct<a: int64>, not ids"),
        (pa.array([[1.5]] * ROWS), "lists of numbers are no feature"),
        (pa.array([[[1]]] * ROWS), "not ids"),
        (pa.array([0.0] * 200 + [np.inf] + [0.0] * 199), "row group 1: dense column"),
    ],
    ids=["struct", "list of numbers", "list of lists", "infinity"],
)
def test_a_column_no_feature_can_be_made_of_says_why(tmp_path, values, problem):
    found = summaries(tmp_path, x=values, y=range(ROWS))

    assert found["x"].values is None
    assert problem in found["x"].problem
    assert not found["x"].is_constant
    assert found["y"].problem is None


def test_nulls_ranges_and_lengths_are_reported(tmp_path):
    found = summaries(
        tmp_path,
        price=pa.array([None if i % 4 == 0 else float(i) for i in range(ROWS)]),
        count=pa.array([i - 5 for i in range(ROWS)]),
        big=pa.array([2**64 - 1] * ROWS, pa.uint64()),
        tags=pa.array([None if i % 4 == 0 else [1, None] * (i % 4) for i in range(ROWS)]),
        constant=["x"] * ROWS,
    )

    assert (found["price"].null_share, found["price"].minimum, found["price"].maximum) == (
        0.25,
        1,
        399,
    )
    assert (found["count"].minimum, found["count"].maximum) == (-5, 394)
    assert found["big"].maximum == 2**64
    assert (found["tags"].mean_length, found["tags"].max_length) == (2, 3)
    assert found["tags"].null_count == 100
    assert [name for name, summary in found.items() if summary.is_constant] == ["big", "constant"]
    assert [name for name, summary in found.items() if summary.is_unique] == ["price", "count"]


@pytest.mark.parametrize(
    ("values", "leak"),
    [
        ([int(label) for label in LABELS], "equal to the label"),
        (LABELS, "equal to the label"),
        ([float(label) for label in LABELS], "equal to the label"),
        ([not label for label in LABELS], "the label negated"),
        ([1.0 - label for label in LABELS], "the label negated"),
        (["yes" if label else "no" for label in LABELS], "each of its values has one label only"),
        ([i % 5 + 10 * label for i, label in enumerate(LABELS)], "each of its values has one"),
        ([i if label else None for i, label in enumerate(LABELS)], "null exactly where the label"),
        (
            [[1] if label else [2] for label in LABELS],
            None,
        ),
        ([i % 3 for i in range(1, ROWS + 1)], "each of its values has one label only"),
        ([i % 2 for i in range(ROWS)], None),
        (list(range(ROWS)), None),
        (["same"] * ROWS, None),
        ([float(i % 7) for i in range(ROWS)], None),
        ([None] * ROWS, None),
    ],
)
def test_a_column_that_gives_the_label_away_is_pointed_out(tmp_path, values, leak):
    found = summaries(tmp_path, x=pa.array(values))["x"].leak

    assert found is None if leak is None else found.startswith(leak)


def test_the_side_of_a_null_leak_is_named(tmp_path):
    found = summaries(
        tmp_path,
        returned=pa.array([i if label else None for i, label in enumerate(LABELS)]),
        kept=pa.array([None if label else "x" for label in LABELS]),
    )

    assert found["returned"].leak == "null exactly where the label is 0"
    assert found["kept"].leak == "null exactly where the label is 1"


def test_one_exception_is_enough_to_be_no_leak(tmp_path):
    values = [int(label) for label in LABELS]
    values[-1] = 1 - values[-1]

    assert summaries(tmp_path, x=values)["x"].leak is None


def test_nothing_leaks_where_there_is_no_label(tmp_path):
    found = summaries(tmp_path, label=None, x=[int(label) for label in LABELS])

    assert set(found) == {"click", "x"}
    assert found["x"].leak is None


def test_a_column_stored_differently_in_another_file_is_reported(tmp_path):
    pq.write_table(
        pa.table(
            {"click": LABELS, "id": range(ROWS), "n": [0.5] * ROWS, "m": [1] * ROWS, "o": LABELS}
        ),
        tmp_path / "a.parquet",
    )
    pq.write_table(
        pa.table({"click": LABELS, "id": ["x"] * ROWS, "n": [1] * ROWS, "m": ["x"] * ROWS}),
        tmp_path / "b.parquet",
    )

    found = {s.name: s for s in profile_columns(open_dataset("*.parquet", tmp_path), "click")}

    assert "int64 in a.parquet, but string in b.parquet" in found["id"].problem
    assert 'b.parquet: column "o" of the data is missing' in found["o"].problem
    assert (found["n"].values, found["n"].problem) == ("numbers", None)
    assert found["n"].cardinality == 2


def test_numbers_beside_strings_are_a_problem(tmp_path):
    for name, values in (("a", [0.5] * ROWS), ("b", ["x"] * ROWS)):
        pq.write_table(pa.table({"click": LABELS, "x": values}), tmp_path / f"{name}.parquet")

    (found,) = profile_columns(open_dataset("*.parquet", tmp_path), "click")

    assert found.problem == 'column "x" holds numbers and strings in different files'


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("clicks", 'column "clicks" of the label is missing'),
        ("text", 'label column "text" holds string'),
        ("rating", 'label column "rating" is 2 in row 2, not 0 or 1'),
    ],
)
def test_a_label_that_is_none_is_refused(tmp_path, label, said):
    columns = {"text": ["x"] * ROWS, "rating": range(ROWS)}

    with pytest.raises(DataError) as caught:
        summaries(tmp_path, label=label, **columns)

    assert said in caught.value.what
