"""Values in any form a loop has them give the same keys, and wrong ones are refused by name."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.errors import DataError
from features.schema import FeatureSet
from features.settings import FeatureSettings, FeaturesSettings, TableSettings
from trainer.representations.registry import build_layout
from trainer.values import ValueReader

INTS = [3, 0, 120, 3]
STRINGS = ["b", "", "Zürich", "b"]
LISTS = [[1, 2], [], [3], [4, 5, 6]]


def reader(features: FeaturesSettings | None = None, **feature: FeatureSettings) -> ValueReader:
    table = TableSettings(rows=1000, width=4)
    chosen = features or FeaturesSettings(categorical=["user", "item"])
    return ValueReader(build_layout(FeatureSet.build(None, chosen, feature, table), None, table))


def keys(values) -> list[int]:
    one = reader(FeaturesSettings(categorical=["user"]))
    return one.batch({"user": values}).columns["user"].keys.tolist()


def bag(values, **feature):
    one = reader(FeaturesSettings(sequence=["history"]), **feature)
    column = one.batch({"history": values}).columns["history"]
    return column.keys.tolist(), column.offsets.tolist()


@pytest.mark.parametrize(
    "values",
    [
        INTS,
        tuple(INTS),
        *(np.array(INTS, dtype) for dtype in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")),
        np.array(INTS, ">i8"),
        np.array([3, 9, 0, 9, 120, 9, 3, 9])[::2],
        *(torch.tensor(INTS, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.uint8)),
        torch.tensor([[3, 1], [0, 1], [120, 1], [3, 1]])[:, 0],
        pa.array(INTS),
        pa.chunked_array([INTS[:1], INTS[1:]]),
        pa.array(INTS).dictionary_encode(),
    ],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}",
)
def test_integers_in_any_form_have_the_same_keys(values):
    found = keys(values)

    assert found == INTS


@pytest.mark.parametrize(
    "values",
    [
        STRINGS,
        np.array(STRINGS),
        np.array(STRINGS, object),
        [text.encode() for text in STRINGS],
        pa.array(STRINGS),
        pa.array(STRINGS, pa.large_string()),
        pa.array(STRINGS).dictionary_encode(),
        pa.chunked_array([STRINGS[:2], STRINGS[2:]]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_strings_in_any_form_have_the_same_keys(values):
    found = keys(values)

    # xxh64 of the empty string, a published vector.
    assert found[1] == 0xEF46DB3751D8E999
    assert found == keys(STRINGS)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_negative_integers_keep_their_two_s_complement(values):
    found = keys(np.array(values, np.int64))

    assert found == [value % 2**64 for value in values]


def test_unsigned_integers_above_the_signed_ones_are_kept():
    found = [keys(np.array([2**64 - 1], np.uint64)), keys([2**64 - 1])]

    assert found == [[2**64 - 1], [2**64 - 1]]


@pytest.mark.parametrize(
    "values", [[True, False], np.array([True, False]), torch.tensor([True, False])]
)
def test_booleans_are_one_and_zero(values):
    found = keys(values)

    assert found == [1, 0]


def test_dates_are_days():
    day = datetime.date(1970, 1, 3)

    found = [keys([day]), keys(np.array([day], "datetime64[D]"))]

    assert found == [[2], [2]]


@pytest.mark.parametrize(
    "values",
    [
        [3, None],
        ["x", None],
        np.ma.array([3, 4], mask=[False, True]),
        np.array(["x", None], object),
        pa.array([3, None]),
    ],
    ids=["ints", "strings", "masked", "objects", "arrow"],
)
def test_none_is_null(values):
    one = reader(FeaturesSettings(categorical=["user"]))

    column = one.batch({"user": values}).columns["user"]

    assert column.nulls.tolist() == [0, 1]
    assert column.keys[1] == 0


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0],
        np.array([1.0, 2.0]),
        np.array([1.0, 2.0], np.float32),
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 2.0], dtype=torch.float16),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        pa.array([1.0, 2.0]),
        [1, None, 2.5],
    ],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}",
)
def test_floats_are_refused_by_name(values):
    with pytest.raises(DataError, match=r'"user" holds .*, not ids; .*cast them to integers'):
        keys(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (7, "a single int"),
        ("abc", "a single str"),
        (b"abc", "a single bytes"),
        (None, "a single NoneType"),
        ([1, "a"], "no column of ids"),
        ([2**64], "no column of ids"),
        ([object()], "no column of ids"),
        (np.zeros((2, 2), np.int64), "no column of ids"),
        (np.array(7), "no column of ids"),
        (torch.tensor(7), "no column of ids"),
        (np.array([1 + 2j]), "no column of ids"),
        (torch.tensor([1 + 2j]), "no column of ids"),
        ([[1, 2], [3]], "has one value a sample"),
        ([{"a": 1}], "not ids"),
    ],
)
def test_what_is_no_column_is_refused_by_name(values, message):
    with pytest.raises(DataError, match=f'"user".*{message}|{message}.*'):
        keys(values)


@pytest.mark.parametrize(
    "values",
    [
        LISTS,
        [np.array(one, np.int32) for one in LISTS],
        pa.array(LISTS),
        pa.array(LISTS, pa.large_list(pa.int32())),
        pa.chunked_array([LISTS[:1], LISTS[1:]]),
        ([1, 2, 3, 4, 5, 6], [0, 2, 2, 3, 6]),
        (np.arange(1, 7), np.array([0, 2, 2, 3, 6])),
        (torch.arange(1, 7), torch.tensor([0, 2, 2, 3, 6])),
        (pa.array([1, 2, 3, 4, 5, 6]), np.array([0, 2, 2, 3, 6], np.int32)),
        (pa.chunked_array([[1, 2], [3, 4, 5, 6]]), [0, 2, 2, 3, 6]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_lists_in_any_form_have_the_same_keys(values):
    found = bag(values)

    assert found == ([1, 2, 3, 4, 5, 6], [0, 2, 2, 3, 6])


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_a_matrix_is_lists_of_equal_length(make):
    found = bag(make([[1, 2, 3], [4, 5, 6]]))

    assert found == ([1, 2, 3, 4, 5, 6], [0, 3, 6])


def test_sequences_keep_their_newest_values():
    found = bag(([1, 2, 3, 4, 5], [0, 1, 5]), history=FeatureSettings(max_length=2))

    assert found == ([1, 4, 5], [0, 1, 3])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2], "rise from 0"),
        ([1, 2, 3], "rise from 0"),
        ([0, 3, 2, 3], "rise from 0"),
        ([0, 4], "rise from 0"),
        ([-1, 3], "rise from 0"),
        ([], "no vector of integers"),
        ([0.0, 3.0], "no vector of integers"),
        ([False, True], "no vector of integers"),
        ([[0, 3]], "no vector of integers"),
    ],
)
def test_senseless_offsets_are_refused(offsets, message):
    with pytest.raises(DataError, match=f'offsets of "history".*{message}'):
        bag(([1, 2, 3], offsets))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 3], "got single values"),
        (torch.tensor([1, 2, 3]), "got single values"),
        (([1], [0, 1], [1]), "a tuple of 3"),
        ([[1.5], [2.0]], "not ids"),
        (torch.ones(2, 2), "not ids"),
        (torch.ones(2, 2, dtype=torch.bfloat16), "not ids"),
        (np.zeros((2, 2, 2), np.int64), "no column of ids"),
    ],
)
def test_what_is_no_list_is_refused_by_name(values, message):
    with pytest.raises(DataError, match=f'"history".*{message}'):
        bag(values)


def test_wrong_names_are_refused_with_the_nearest_right_one():
    with pytest.raises(DataError, match='no feature "usr"; did you mean "user"'):
        reader().batch({"usr": [1], "item": [1]})


def test_missing_names_are_refused():
    with pytest.raises(DataError, match='values of "item" are missing'):
        reader().batch({"user": [1]})


def test_unequal_lengths_are_refused_with_both_names():
    with pytest.raises(DataError, match='"item" has 3 samples, "user" has 2'):
        reader().batch({"user": [1, 2], "item": [1, 2, 3]})


def test_integers_and_strings_of_one_feature_never_mix():
    one = reader()
    one.batch({"user": [None, None], "item": ["7"]} | {"user": [7]})

    for values in (["7"], np.array(["7"]), pa.array(["7"])):
        with pytest.raises(DataError, match='"user" holds strings, but has held integers'):
            one.batch({"user": values, "item": ["7"]})
    for values in ([7], torch.tensor([7])):
        with pytest.raises(DataError, match='"item" holds integers, but has held strings'):
            one.batch({"user": [7], "item": values})


def test_nulls_alone_settle_no_class():
    one = reader()
    one.batch({"user": [None], "item": pa.nulls(1)})

    columns = one.batch({"user": ["7"], "item": [7]}).columns

    assert one.key_classes == {"user": "string", "item": "int"}
    assert columns["item"].keys.tolist() == [7]


def test_a_refused_batch_settles_no_class():
    one = reader()
    with pytest.raises(DataError, match="samples"):
        one.batch({"user": ["7"], "item": [1, 2]})

    one.batch({"user": [7], "item": [1]})

    assert one.key_classes == {"user": "int", "item": "int"}


def test_features_that_share_rows_share_the_class():
    one = reader(
        FeaturesSettings(categorical=["item"], sequence=["history"]),
        history=FeatureSettings(shares="item"),
    )

    with pytest.raises(DataError, match='"history" holds strings, but has held integers'):
        one.batch({"item": [1], "history": [["1"]]})


def test_crosses_are_made_of_their_parts():
    one = reader(FeaturesSettings(categorical=["user", "item"], cross={"both": ["user", "item"]}))

    columns = one.batch({"user": [1, 1, 2], "item": ["a", None, "a"]}).columns

    assert one.columns == ("user", "item")
    assert len(set(columns["both"].keys.tolist())) == 3


def test_derived_parts_of_timestamps_are_taken():
    one = reader(
        FeaturesSettings(categorical=["user"]), user=FeatureSettings(column="time", derive="hour")
    )

    columns = one.batch({"time": np.array(["2024-05-01T13:59"], "datetime64[us]")}).columns

    assert columns["user"].keys.tolist() == [13]
