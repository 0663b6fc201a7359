import datetime
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.columns import keys_of, table_keys
from features.errors import DataError
from features.hashing import NULL_KEY, cross_keys, hashed_rows, key_of
from features.schema import Feature, FeatureSet
from tests.features import reference
from tests.golden import make_hashing

GOLDEN = json.loads(Path(make_hashing.PATH).read_text(encoding="ascii"))["vectors"]
UINT64 = st.integers(0, 2**64 - 1)


def categorical(name="x", **settings):
    return Feature(name=name, kind="categorical", columns=(name,), salt_name=name, **settings)


def arrow_type(kind):
    timestamp = re.fullmatch(r"timestamp\[(\w+)(?:, (.+))?\]", kind)
    if timestamp:
        return pa.timestamp(timestamp[1], tz=timestamp[2])
    binary = re.fullmatch(r"fixed_size_binary\[(\d+)\]", kind)
    if binary:
        return pa.binary(int(binary[1]))
    return {"bool": pa.bool_(), "date32": pa.date32(), "date64": pa.date64()}.get(kind) or getattr(
        pa, kind
    )()


def arrow_value(kind, value):
    if value is None:
        return None
    if isinstance(value, dict):
        return value["repeat"] * value["times"]
    if kind == "bool":
        return bool(int(value))
    if "binary" in kind:
        return bytes.fromhex(value)
    if kind.startswith("date"):
        return datetime.date.fromisoformat(value)
    return value if "string" in kind else int(value)


def golden_keys(vector):
    """The key column of one golden value, through Arrow."""
    if vector["type"] == "cross":
        names = [f"part{i}" for i in range(len(vector["value"]))]
        table = pa.table({n: pa.array([v]) for n, v in zip(names, vector["value"], strict=True)})
        parts = tuple(categorical(name) for name in names)
        cross = Feature(name="x", kind="cross", columns=tuple(names), parts=tuple(names))
        feature_set = FeatureSet(features=(*parts, cross))
        return table_keys(table, feature_set, "test", edges={})["x"]
    kind, _, derive = vector["type"].partition("] ")
    kind += "]" * bool(derive)
    array = pa.array([arrow_value(kind, vector["value"])], arrow_type(kind))
    return keys_of(array, categorical(derive=derive or None), "test")


def test_golden_values_keep_their_keys_and_rows():
    assert len(GOLDEN) >= 200

    for vector in GOLDEN:
        column = golden_keys(vector)
        rows = hashed_rows(
            column.keys,
            column.nulls,
            name=vector["feature"],
            num_lookups=len(vector["rows"]),
            num_rows=vector["region"],
            base=vector["base"],
            hash_seed=vector["hash_seed"],
        )

        if vector["key"] is None:
            assert column.nulls.tolist() == [1], vector
        else:
            assert f"{column.keys[0]:016x}" == vector["key"], vector
        assert rows[:, 0].tolist() == vector["rows"], vector


def test_golden_values_are_those_of_the_slow_reference():
    again = list(make_hashing.vectors())

    assert again == GOLDEN


@pytest.mark.parametrize("num_rows", [160_605, 2**40 + 13])
def test_a_million_integers_have_the_rows_of_the_slow_reference(num_rows):
    rng = np.random.default_rng(num_rows)
    ids = rng.integers(-(2**63), 2**63, 1_000_000, dtype=np.int64)

    column = keys_of(pa.array(ids), categorical(), "test")
    rows = hashed_rows(column.keys, None, name="x", num_lookups=1, num_rows=num_rows, base=7)

    expected = reference.rows_all([i & reference.M for i in ids.tolist()], "x", 0, 0, 7, num_rows)
    assert (rows[0] == expected.astype(np.int64)).all()


def test_a_million_strings_have_the_rows_of_the_slow_reference():
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 60, 1_000_000)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = rng.integers(0, 256, offsets[-1], dtype=np.uint8).tobytes()
    array = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), 1_000_000, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )

    column = keys_of(array, categorical(), "test")
    rows = hashed_rows(column.keys, None, name="x", num_lookups=1, num_rows=10**6, hash_seed=3)

    ends = offsets.tolist()
    keys = [reference.key(data[a:b]) for a, b in itertools.pairwise(ends)]
    expected = reference.rows_all(keys, "x", 0, 3, 0, 10**6)
    assert (rows[0] == expected.astype(np.int64)).all()


@given(
    keys=st.lists(st.none() | UINT64, max_size=20),
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    num_lookups=st.integers(1, 5),
    hash_seed=st.integers(0, 2**63 - 1),
    base=st.integers(0, 2**40),
    num_rows=st.integers(1, 2**41),
)
def test_rows_are_those_of_the_slow_reference(keys, name, num_lookups, hash_seed, base, num_rows):
    nulls = np.array([key is None for key in keys], np.uint8)
    values = np.array([key or 0 for key in keys], np.uint64)

    rows = hashed_rows(
        values,
        nulls,
        name=name,
        num_lookups=num_lookups,
        num_rows=num_rows,
        base=base,
        hash_seed=hash_seed,
    )

    expected = [reference.rows(k, name, num_lookups, hash_seed, base, num_rows) for k in keys]
    assert rows.T.tolist() == expected


@given(st.lists(st.lists(st.none() | UINT64, min_size=3, max_size=3), max_size=10))
def test_a_cross_is_that_of_the_slow_reference_and_depends_on_the_order(samples):
    columns = list(zip(*samples, strict=True)) or [(), (), ()]
    parts = [
        (
            np.array([key or 0 for key in column], np.uint64),
            np.array([key is None for key in column], np.uint8),
        )
        for column in columns
    ]

    crossed = cross_keys(parts)

    assert crossed.tolist() == [reference.cross(sample) for sample in samples]
    for sample, key in zip(samples, crossed.tolist(), strict=True):
        if sample[0] != sample[1]:
            assert key != reference.cross([sample[1], sample[0], sample[2]])


def test_a_null_part_is_the_key_of_a_name_no_value_can_have():
    assert reference.key(b"\0null") == int(NULL_KEY)


@given(st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9) | st.binary(max_size=9))
def test_one_value_has_the_key_of_a_column_of_it(value):
    column = keys_of(
        pa.array([value], pa.uint64() if isinstance(value, int) and value >= 2**63 else None),
        categorical(),
        "test",
    )

    assert key_of(value) == int(column.keys[0]) == reference.key(value)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_an_integer_beyond_64_bits_is_refused(value):
    with pytest.raises(DataError, match=f"{value} does not fit into 64 bits"):
        key_of(value)


@given(key=UINT64, num_rows=st.integers(1, 2**30), times=st.integers(1, 1000))
def test_growing_a_table_n_fold_moves_row_r_into_its_n_rows(key, num_rows, times):
    keys = np.array([key], np.uint64)

    small = hashed_rows(keys, None, name="x", num_lookups=2, num_rows=num_rows)
    large = hashed_rows(keys, None, name="x", num_lookups=2, num_rows=num_rows * times)

    assert (large // times == small).all()
