import decimal
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.dense import (
    DenseTransform,
    build_transforms,
    check_numeric,
    clip_and_log,
    dense_matrix,
    numbers_of,
)
from features.errors import DataError, SnapshotError
from features.schema import Feature, FeatureSet
from features.statistics import DenseStatistics

NUMBERS = st.floats(-1e6, 1e6, width=32)
MAYBE = st.none() | st.just(math.nan) | NUMBERS


def dense(name="x", **settings):
    return Feature(name=name, kind="dense", columns=(name,), **settings)


def statistics(mean=0.0, std=1.0, missing_count=0):
    return DenseStatistics(
        rows=10, missing_count=missing_count, minimum=0, maximum=1, mean=mean, std=std
    )


def transform(seen=None, **settings):
    return DenseTransform.build(dense(**settings), seen or statistics())


def plainly(value, feature, seen):
    """One value, by the page, in Python's floats."""
    missing = value is None or math.isnan(value)
    if missing and feature.fill is None:
        return 0.0 if feature.standardize else seen.mean
    if missing:
        value = feature.fill
    elif feature.clip is not None:
        value = min(max(value, feature.clip[0]), feature.clip[1])
    if feature.log == "log1p":
        value = math.log1p(max(value, 0.0))
    elif feature.log == "signed":
        value = math.copysign(math.log1p(abs(value)), value)
    if feature.standardize:
        value = (value - seen.mean) / seen.std if seen.std > 0 else 0.0
    return value


@given(
    values=st.lists(MAYBE, max_size=20),
    log=st.sampled_from([None, "log1p", "signed"]),
    clip=st.sampled_from([None, (-3.0, 100.0)]),
    standardize=st.booleans(),
    fill=st.none() | NUMBERS,
    seen=st.builds(statistics, NUMBERS, st.sampled_from([0.0, 0.5, 1e3]), st.integers(0, 3)),
)
def test_each_value_is_transformed_as_written(values, log, clip, standardize, fill, seen):
    made = transform(seen, log=log, clip=clip, standardize=standardize, fill=fill)

    out = made.apply(pa.array(values, pa.float64()), "f").reshape(-1, made.width)

    assert out.dtype == np.float32
    expected = [plainly(value, made.feature, seen) for value in values]
    np.testing.assert_allclose(out[:, 0], np.array(expected, np.float32), rtol=1e-6, atol=1e-6)
    if made.width == 2:
        assert out[:, 1].tolist() == [value is None or math.isnan(value) for value in values]


def test_the_missing_indicator_is_there_where_the_profile_saw_one_unless_said_otherwise():
    widths = {
        (count, missing): transform(statistics(missing_count=count), missing=missing).width
        for count in (0, 5)
        for missing in (None, True, False)
    }

    assert widths == {
        (0, None): 1,
        (5, None): 2,
        (0, True): 2,
        (5, True): 2,
        (0, False): 1,
        (5, False): 1,
    }


def test_both_columns_of_an_indicator_are_contiguous():
    out = transform(missing=True).apply(pa.array([1.0, None]), "f")

    assert out.shape == (2, 2)
    assert out[:, 0].flags.c_contiguous
    assert out[:, 1].flags.c_contiguous


TYPES = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 2)),
]


@pytest.mark.parametrize("arrow_type", TYPES, ids=str)
def test_numbers_of_every_type_are_read_at_any_offset_and_chunking(arrow_type):
    values = [9, 1, None, 3, 4]
    if pa.types.is_decimal(arrow_type):
        values = [None if v is None else decimal.Decimal(v) for v in values]
    array = pa.array(values, arrow_type).slice(1)
    chunked = pa.chunked_array([array[:1], array[1:]])
    encoded = array.dictionary_encode() if not pa.types.is_float16(arrow_type) else array

    results = [numbers_of(form, "x", "f") for form in (array, chunked, encoded)]

    for numbers, missing in results:
        assert numbers[[0, 2, 3]].tolist() == [1.0, 3.0, 4.0]
        assert missing.tolist() == [False, True, False, False]


def test_booleans_nulls_and_empty_columns_are_numbers_too():
    assert numbers_of(pa.array([True, False]), "x", "f")[0].tolist() == [1.0, 0.0]
    assert numbers_of(pa.nulls(2), "x", "f")[1].tolist() == [True, True]
    assert len(numbers_of(pa.chunked_array([], pa.int8()), "x", "f")[0]) == 0


def test_the_input_is_never_written_to():
    values = np.array([1.0, 200.0])

    transform(clip=(0.0, 5.0), log="log1p").apply(pa.array(values), "f")

    assert values.tolist() == [1.0, 200.0]


@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_an_infinity_is_refused_naming_column_and_row_even_where_clip_would_hide_it(infinity):
    array = pa.chunked_array([[1.0, None], [2.0, infinity]])

    with pytest.raises(DataError, match=r'a.parquet: dense column "x" holds an infinity in row 3'):
        transform(clip=(0.0, 1.0)).apply(array, "a.parquet")


def test_what_stands_under_a_null_is_ignored():
    array = pa.array(np.array([1.0, np.inf]), mask=np.array([False, True]))

    assert transform().apply(array, "f").tolist() == [1.0, 0.0]


def test_a_value_beyond_float32_is_refused_naming_its_row():
    with pytest.raises(DataError, match=r"too large for float32 after its transform in row 1"):
        transform(standardize=False).apply(pa.array([1.0, 1e300]), "f")


def test_statistics_that_overflowed_are_refused_with_a_way_out():
    with pytest.raises(DataError, match=r"too large for a mean.*clip, or log"):
        transform(statistics(mean=math.inf))


@pytest.mark.parametrize(
    ("arrow_type", "way_out"),
    [
        (pa.string(), "features.categorical"),
        (pa.timestamp("us"), "derive"),
        (pa.date32(), "derive"),
        (pa.list_(pa.float64()), "a column of its own"),
        (pa.binary(), "features.categorical"),
    ],
    ids=str,
)
def test_types_that_hold_no_numbers_are_refused_naming_the_column(arrow_type, way_out):
    with pytest.raises(DataError, match=r'f: dense column "x" holds .*, not numbers') as refused:
        check_numeric(arrow_type, "x", "f")

    assert way_out in refused.value.fix


def test_a_matrix_has_the_columns_of_all_transforms_side_by_side():
    feature_set = FeatureSet(features=(), dense=(dense("a", missing=True), dense("b")))
    seen = type("Seen", (), {"dense": {"a": statistics(), "b": statistics(mean=1.0)}})
    table = pa.table({"b": [1.0, 3.0], "a": [5.0, None]})

    made = build_transforms(feature_set, seen)
    out = dense_matrix(made, table, "f")

    assert out.tolist() == [[5.0, 0.0, 0.0], [0.0, 1.0, 2.0]]


def test_the_profile_takes_its_mean_from_what_standardizing_sees():
    feature = dense(clip=(0.0, 10.0), log="log1p")
    raw = np.array([0.0, 3.0, 500.0])

    seen = clip_and_log(feature, raw.copy(), None)
    made = DenseTransform.build(feature, statistics(seen.mean(), seen.std()))
    out = made.apply(pa.array(raw), "f")

    assert abs(out.mean()) < 1e-6
    assert abs(out.std() - 1) < 1e-6


def test_a_transform_survives_json():
    made = transform(statistics(0.1, 1 / 3), clip=(-1.0, 2.5), log="signed", fill=0.25)

    assert DenseTransform.from_json(made.to_json()) == made


def test_a_damaged_transform_is_refused():
    tree = transform().to_json() | {"std": "1"}

    with pytest.raises(SnapshotError, match=r"a dense transform is damaged or foreign: std"):
        DenseTransform.from_json(tree)
