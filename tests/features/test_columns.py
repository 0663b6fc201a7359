import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from features.columns import bucket_keys, key_class, keys_of, table_keys
from features.errors import DataError
from features.ids import check_type
from features.schema import Feature, FeatureSet
from tests.features import reference

STRINGS = st.text(st.characters(codec="utf-8"), max_size=12)
INTEGERS = st.integers(-(2**31), 2**31 - 1)
VALUES = st.lists(st.none() | STRINGS, max_size=30) | st.lists(st.none() | INTEGERS, max_size=30)


def categorical(**settings):
    return Feature(name="x", kind="categorical", columns=("x",), salt_name="x", **settings)


def a_list(kind="list", **settings):
    return Feature(name="x", kind=kind, columns=("x",), salt_name="x", **settings)


def keys_and_nulls(column):
    nulls = np.zeros(len(column.keys), np.uint8) if column.nulls is None else column.nulls
    return [None if null else key for key, null in zip(column.keys.tolist(), nulls, strict=True)]


def bags(column):
    values = keys_and_nulls(column)
    return [values[a:b] for a, b in zip(column.offsets, column.offsets[1:], strict=False)]


@given(VALUES)
def test_keys_are_those_of_the_slow_reference(values):
    column = keys_of(pa.array(values), categorical(), "f")

    assert keys_and_nulls(column) == [reference.key(value) for value in values]
    assert column.offsets is None


@given(VALUES, st.data())
def test_slices_chunks_and_encodings_of_the_same_values_have_the_same_keys(values, data):
    plain = pa.array(values)
    assume(not pa.types.is_null(plain.type))
    cut = data.draw(st.integers(0, len(values)))
    padded = pa.array([*values[:1] * 3, *values, *values[:1]], plain.type)
    dictionary = plain.dictionary_encode()
    forms = [
        padded.slice(min(3, 3 * len(values)), len(values)),
        pa.chunked_array([plain[:cut], plain[cut:]]),
        pa.chunked_array([plain, plain[:0]]),
        dictionary,
        pa.concat_arrays([dictionary, dictionary]).slice(len(values), len(values)),
        pa.chunked_array([plain[:cut].dictionary_encode(), plain[cut:].dictionary_encode()]),
    ]
    if pa.types.is_string(plain.type):
        others = [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]
        forms += [plain.cast(other) for other in others]
        forms.append(plain.cast(pa.binary()).cast(pa.binary_view()))
    else:
        forms += [plain.cast(pa.int64()), plain.cast(pa.int32())]

    columns = [keys_of(form, categorical(), "f") for form in forms]

    expected = keys_and_nulls(keys_of(plain, categorical(), "f"))
    for form, column in zip(forms, columns, strict=True):
        assert keys_and_nulls(column) == expected, form.type
        assert column.keys.dtype == np.uint64
        assert (column.keys[column.nulls == 1] == 0).all() if column.nulls is not None else True


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["int", "uint"])
def test_an_integer_has_the_key_of_its_value_whatever_its_width(bits, sign):
    dtype = np.dtype(f"{sign}{bits}")
    info = np.iinfo(dtype)
    values = np.array([info.min, 0, 1, 100, info.max], dtype)

    column = keys_of(pa.array(values), categorical(), "f")

    assert column.keys.tolist() == [int(v) % 2**64 for v in values]


def test_int64_without_nulls_is_not_copied():
    values = np.arange(1000)

    column = keys_of(pa.array(values), categorical(), "f")

    assert np.shares_memory(column.keys, values)


def test_booleans_are_0_and_1_at_any_bit_offset():
    values = [bool(i % 3) for i in range(40)]

    columns = [keys_of(pa.array(values).slice(i), categorical(), "f") for i in range(20)]

    for i, column in enumerate(columns):
        assert column.keys.tolist() == values[i:]


def test_a_column_of_nulls_has_no_class_and_only_nulls():
    array = pa.nulls(3)

    column = keys_of(array, categorical(), "f", trained_class="string")

    assert keys_and_nulls(column) == [None, None, None]
    assert key_class(array.type, "x", "f") is None


def test_an_empty_column_of_any_shape_has_no_keys():
    arrays = [
        pa.array([], pa.int64()),
        pa.array([], pa.string()),
        pa.chunked_array([], pa.string()),
        pa.array([], pa.bool_()),
        pa.array([], pa.dictionary(pa.int8(), pa.string())),
        pa.array([], pa.timestamp("ns")),
    ]

    columns = [keys_of(array, categorical(), "f") for array in arrays]

    assert [len(column.keys) for column in columns] == [0] * len(arrays)


def test_nulls_inside_a_dictionary_are_nulls():
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2], pa.int8()), pa.array(["a", None, "b"])
    )

    column = keys_of(dictionary, categorical(), "f")

    assert keys_and_nulls(column) == [reference.key("a"), None, None, reference.key("b")]


def test_a_dictionary_of_nothing_but_null_indices_has_only_nulls():
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array([None, None], pa.int32()), pa.array([], pa.string())
    )

    column = keys_of(dictionary, categorical(), "f")

    assert keys_and_nulls(column) == [None, None]


def test_a_few_rows_cut_from_a_large_dictionary_do_not_hash_all_of_it(monkeypatch):
    hashed = []
    hash_strings = keys_of.__globals__["native"].hash_strings

    def counting(offsets, data):
        hashed.append(len(offsets) - 1)
        return hash_strings(offsets, data)

    monkeypatch.setattr("features.columns.native.hash_strings", counting)
    array = pa.array([str(i) for i in range(10_000)]).dictionary_encode().slice(5_000, 3)

    column = keys_of(array, categorical(), "f")

    assert column.keys.tolist() == [reference.key(str(i)) for i in range(5_000, 5_003)]
    assert hashed == [3]


def test_damaged_buffers_are_refused_naming_the_column():
    offsets = pa.py_buffer(np.array([0, 5, 3], np.int32))
    falling = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"hello"))
    outside = pa.DictionaryArray.from_arrays(
        pa.array([0, 7], pa.int8()), pa.array(["a"]), safe=False
    )

    for array in (falling, outside):
        with pytest.raises(DataError, match=r'part-1.parquet: column "x" is damaged'):
            keys_of(array, categorical(), "part-1.parquet")


def test_damaged_list_offsets_are_refused_naming_the_column():
    offsets = pa.py_buffer(np.array([0, 5, 1], np.int32))
    array = pa.Array.from_buffers(
        pa.list_(pa.int64()), 2, [None, offsets], children=[pa.array([1])]
    )

    with pytest.raises(DataError, match=r'column "x" is damaged: list offsets'):
        keys_of(array, a_list(), "f")


MICROSECONDS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


@given(st.lists(st.none() | MICROSECONDS, max_size=10), st.sampled_from(["s", "ms", "us", "ns"]))
def test_timestamps_are_microseconds_rounded_down(micros, unit):
    to_unit = {"s": (1, 10**6), "ms": (1, 10**3), "us": (1, 1), "ns": (1000, 1)}[unit]
    ticks = [None if m is None else m * to_unit[0] // to_unit[1] for m in micros]
    ticks = [t if t is None or abs(t) < 2**63 else None for t in ticks]
    zoned = pa.array(ticks, pa.timestamp(unit, tz="Asia/Tokyo"))

    column = keys_of(zoned, categorical(), "f")

    expected = [None if t is None else reference.micros(t, unit) % 2**64 for t in ticks]
    assert keys_and_nulls(column) == expected
    assert keys_and_nulls(keys_of(zoned.cast(pa.timestamp(unit)), categorical(), "f")) == expected


def test_nanoseconds_before_1970_round_down_too():
    ticks = [-1, -999, -1000, -1001, 1, 999, 1000]

    column = keys_of(pa.array(ticks, pa.timestamp("ns")), categorical(), "f")

    assert column.keys.view(np.int64).tolist() == [-1, -1, -1, -2, 0, 0, 1]


def test_a_timestamp_too_large_for_microseconds_is_refused_with_its_row_unless_null():
    ticks = np.array([0, 2**62, 0])
    present = pa.array(ticks, pa.timestamp("s"))
    null = pa.array(ticks, pa.timestamp("s"), mask=np.array([False, True, False]))

    column = keys_of(null, categorical(), "f")

    assert keys_and_nulls(column) == [0, None, 0]
    with pytest.raises(DataError, match=r'column "x" holds .* in row 1'):
        keys_of(present, categorical(), "f")


@pytest.mark.parametrize("what", ["hour", "weekday", "day"])
@given(micros=MICROSECONDS)
def test_derived_parts_are_those_of_the_calendar(what, micros):
    moment = pa.array([micros, None], pa.timestamp("us"))

    column = keys_of(moment, categorical(derive=what), "f")

    assert keys_and_nulls(column) == [reference.derived(micros, "us", what), None]


@given(st.dates(datetime.date(1, 1, 1), datetime.date(9999, 12, 31)))
def test_dates_are_days_and_their_parts_those_of_the_calendar(date):
    for kind in (pa.date32(), pa.date64()):
        array = pa.array([date], kind)

        days = keys_of(array, categorical(), "f")
        weekday = keys_of(array, categorical(derive="weekday"), "f")
        day = keys_of(array.dictionary_encode(), categorical(derive="day"), "f")

        assert days.keys.tolist() == [reference.key(date)]
        assert weekday.keys.tolist() == [date.weekday()]
        assert day.keys.tolist() == [date.day]


LISTS = st.lists(st.none() | st.lists(st.none() | INTEGERS, max_size=5), max_size=15)


def expected_bags(lists, max_length=None):
    """A null list is one null, null values are left out, the newest stand last."""
    settled = [[None] if one is None else [v for v in one if v is not None] for one in lists]
    cut = [one if max_length is None else one[-max_length:] for one in settled]
    return [[reference.key(value) for value in one] for one in cut]


@given(LISTS, st.sampled_from([None, 1, 2, 3]), st.data())
def test_lists_keep_their_newest_values_and_a_null_list_is_one_null(lists, max_length, data):
    array = pa.array(lists, pa.list_(pa.int64()))
    cut = data.draw(st.integers(0, len(lists)))
    padded = pa.array([[1, 2], None, *lists, [3]], pa.list_(pa.int64()))
    forms = [
        array,
        array.cast(pa.large_list(pa.int64())),
        pa.chunked_array([array[:cut], array[cut:]]),
        padded.slice(2, len(lists)),
        array.cast(pa.list_(pa.string())).cast(pa.list_(pa.int64())),
    ]
    feature = a_list("sequence", max_length=max_length)

    columns = [keys_of(form, feature, "f") for form in forms]

    for column in columns:
        assert bags(column) == expected_bags(lists, max_length)
        assert column.offsets.dtype == np.int64
        assert column.offsets[0] == 0
        assert column.offsets[-1] == len(column.keys)


@given(st.lists(st.none() | st.lists(st.none() | INTEGERS, min_size=2, max_size=2), max_size=8))
def test_lists_of_a_fixed_size_are_lists(lists):
    array = pa.array([[9, 9], *lists], pa.list_(pa.int64(), 2)).slice(1)

    column = keys_of(array, a_list(), "f")

    assert bags(column) == expected_bags(lists)


def test_what_a_null_list_spans_is_ignored():
    offsets = pa.array([0, 2, 4, 5], pa.int32())
    array = pa.ListArray.from_arrays(
        offsets, pa.array([1, 2, 3, 4, 5]), mask=pa.array([False, True, False])
    )

    column = keys_of(array, a_list(), "f")

    assert bags(column) == [[1, 2], [None], [5]]


def test_lists_of_strings_and_of_dictionaries_have_the_keys_of_their_strings():
    plain = pa.array([["a", "b"], [], None, ["a"]], pa.list_(pa.string()))
    values = plain.values.dictionary_encode()
    encoded = pa.ListArray.from_arrays(
        plain.offsets, values, mask=pa.array([False, False, True, False])
    )

    columns = [keys_of(array, a_list(), "f") for array in (plain, encoded)]

    a, b = reference.key("a"), reference.key("b")
    for column in columns:
        assert bags(column) == [[a, b], [], [None], [a]]


def test_a_column_of_null_lists_is_a_null_each():
    for array in (pa.nulls(2), pa.array([None, None], pa.list_(pa.null()))):
        column = keys_of(array, a_list(), "f")

        assert bags(column) == [[None], [None]]


REFUSED = [
    (pa.float64(), "dense, or bucketize"),
    (pa.float16(), "pandas turns integers with nulls into floats"),
    (pa.decimal128(10, 2), "dense, or bucketize"),
    (pa.struct([("a", pa.int64())]), "each field in a column of its own"),
    (pa.map_(pa.string(), pa.int64()), "each field in a column of its own"),
    (pa.time64("us"), "an integer number of the unit"),
    (pa.duration("s"), "an integer number of the unit"),
    (pa.month_day_nano_interval(), "an integer number of the unit"),
    (pa.list_(pa.list_(pa.int64())), "one level of lists"),
    (pa.list_(pa.float32()), "dense, or bucketize"),
    (pa.dictionary(pa.int8(), pa.float64()), "dense, or bucketize"),
    (pa.dense_union([pa.field("a", pa.int64())]), "store integers, strings"),
]


@pytest.mark.parametrize(("arrow_type", "way_out"), REFUSED, ids=[str(t) for t, _ in REFUSED])
def test_types_without_ids_are_refused_naming_the_column_and_ways_out(arrow_type, way_out):
    with pytest.raises(DataError, match=r"not ids") as refused:
        key_class(arrow_type, "price", "a.parquet")

    assert refused.value.what == f'a.parquet: column "price" holds {arrow_type}, not ids'
    assert way_out in refused.value.fix


def test_the_kind_of_a_feature_and_its_column_must_agree():
    with pytest.raises(DataError, match=r"features.list"):
        keys_of(pa.array([[1]]), categorical(), "f")
    with pytest.raises(DataError, match=r"not lists; list it under features.categorical"):
        keys_of(pa.array([1]), a_list(), "f")


def test_derived_parts_need_a_type_that_has_them():
    with pytest.raises(DataError, match=r'feature.x.derive is "day", but column "x" holds string'):
        check_type(pa.string(), categorical(derive="day"), "f")
    with pytest.raises(DataError, match=r"without hours"):
        check_type(pa.date32(), categorical(derive="hour"), "f")


def test_a_feature_trained_on_integers_refuses_strings_and_the_reverse():
    keys_of(pa.array([1]), categorical(), "f", trained_class="int")
    keys_of(pa.array(["1"]), categorical(), "f", trained_class="string")

    with pytest.raises(DataError, match=r"holds string, strings, but .* trained on integers"):
        keys_of(pa.array(["1"]), categorical(), "f", trained_class="int")
    with pytest.raises(DataError, match=r"trained on strings"):
        keys_of(pa.array([[1]]), a_list(), "f", trained_class="string")


def test_an_extension_type_has_the_keys_of_its_storage():
    raw = pa.array([b"0123456789abcdef"], pa.binary(16))
    array = pa.ExtensionArray.from_storage(pa.uuid(), raw)

    column = keys_of(array, categorical(), "f")

    assert column.keys.tolist() == [reference.key(b"0123456789abcdef")]


def test_a_value_is_in_the_bucket_whose_lower_edge_it_reaches():
    feature = Feature(name="x", kind="bucketized", columns=("x",), buckets=4)
    array = pa.array([-9.0, 1.0, 1.5, 2.0, 99.0, None, float("nan")])

    column = bucket_keys(array, feature, (1.0, 2.0), "f")

    assert keys_and_nulls(column) == [0, 1, 1, 2, 2, None, None]


def test_a_table_has_the_keys_of_every_feature_by_name():
    features = FeatureSet(
        features=(
            Feature(name="a", kind="categorical", columns=("col",), salt_name="a"),
            Feature(name="b", kind="categorical", columns=("b",), salt_name="b"),
            Feature(name="l", kind="list", columns=("l",), salt_name="l"),
            Feature(name="c", kind="cross", columns=("b", "col"), parts=("b", "a"), salt_name="c"),
            Feature(name="p", kind="bucketized", columns=("p",), buckets=2, salt_name="p"),
        )
    )
    table = pa.table(
        {"col": [1, None], "b": ["u", "v"], "l": [[1], []], "p": [0.5, 3.0], "other": [0, 0]}
    )

    keys = table_keys(table, features, "f", edges={"p": (1.0,)}, key_classes={"a": "int"})
    without = table_keys(table.to_batches()[0], features, "f", edges={})

    assert list(keys) == ["a", "b", "l", "c", "p"]
    u, v = reference.key("u"), reference.key("v")
    assert keys_and_nulls(keys["a"]) == [1, None]
    assert keys_and_nulls(keys["c"]) == [reference.cross([u, 1]), reference.cross([v, None])]
    assert keys_and_nulls(keys["p"]) == [0, 1]
    assert bags(keys["l"]) == [[1], []]
    assert set(without) == {"a", "b", "l", "c"}
