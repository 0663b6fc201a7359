"""Readers against the plain formulas, value by value, in Python integers and numpy floats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.batches import KeyColumn
from features.readers.registry import Site, make_reader
from tests.features import reference

NAME, SEED = "user", 9
DICTIONARY = np.array([3, 5, 8, 2**63 + 1], np.uint64)

keys = st.lists(
    st.one_of(st.none(), st.sampled_from(DICTIONARY.tolist()), st.integers(0, 2**64 - 1)),
    min_size=0,
    max_size=30,
)


def site(width=6, base=10, rows=50, lookups=2, table_rows=100):
    return Site(
        salt_name=NAME,
        num_lookups=lookups,
        hash_seed=SEED,
        base=base,
        rows=rows,
        width=width,
        table_rows=table_rows,
        vocabulary=DICTIONARY,
    )


def column(values):
    return KeyColumn(
        np.array([value or 0 for value in values], np.uint64),
        np.array([value is None for value in values], np.uint8),
    )


def table(width, rows=100, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (rows, width)).astype(np.float32)


def vectors(reader, values, weight):
    """What a reader makes of values, in numpy and, equal bit for bit or nearly, in torch."""
    reading = reader.read(column(values))
    read = weight[reading.rows]
    found = np.asarray(reader.combine(read, reading.extra))
    extra = None if reading.extra is None else torch.from_numpy(reading.extra)
    in_torch = reader.combine(torch.from_numpy(read), extra).numpy()
    assert found.dtype == np.float32
    assert found.shape == (len(values), reader.out_width)
    if reader.kind in ("program", "tensor_train"):
        np.testing.assert_allclose(found, in_torch, rtol=1e-5, atol=1e-6)
    else:
        assert found.tobytes() == in_torch.tobytes()
    return found


def number(value):
    """The number of a value in the dictionary: the unseen and null come behind it."""
    if value is None:
        return len(DICTIONARY) + 1
    places = np.flatnonzero(np.uint64(value) == DICTIONARY)
    return int(places[0]) if len(places) else len(DICTIONARY)


def digits_of(value, offset, radices):
    rest, digits = number(value) + offset, []
    for radix in radices:
        digits.append(rest % radix)
        rest //= radix
    return digits


def hashed(value, name, k, rows):
    return reference.row(value, name, k, SEED, 0, rows)


@given(keys)
def test_an_exact_reader_lays_the_rows_of_a_value_side_by_side(values):
    reader = make_reader({"kind": "exact", "count": 2, "width": 9}, site())
    weight = table(6)

    found = vectors(reader, values, weight)

    for value, vector in zip(values, found, strict=True):
        first = 10 + number(value) * 2
        assert vector.tolist() == np.concatenate(weight[first : first + 2])[:9].tolist()


@given(keys)
def test_a_weighted_sum_takes_its_importances_from_a_row_many_share(values):
    reader = make_reader({"kind": "weighted_sum", "base": 60, "rows": 7}, site(lookups=2))
    weight = table(6)

    found = vectors(reader, values, weight)

    for value, vector in zip(values, found, strict=True):
        place = hashed(value, NAME + "\0importance", 0, 7 * 3)
        row, first = weight[60 + place // 3], place % 3 * 2
        p = row[first : first + 2] + np.float32(1 / math.sqrt(2))
        parts = [weight[10 + hashed(value, NAME, k, 50)] for k in range(2)]
        np.testing.assert_array_equal(vector, p[0] * parts[0] + p[1] * parts[1])


@given(keys)
def test_signed_scalars_have_the_sign_of_the_lowest_bit(values):
    reader = make_reader({"kind": "signed_scalar", "width": 5}, site(width=1))
    weight = table(1)

    found = vectors(reader, values, weight)

    for value, vector in zip(values, found, strict=True):
        key, name = (0, NAME + "\0null") if value is None else (value, NAME)
        for k in range(5):
            mixed = reference.mix64(key ^ reference.salt(name, k, SEED))
            expected = weight[10 + (mixed * 50 >> 64), 0]
            assert vector[k] == (-expected if mixed & 1 else expected)


@given(keys, st.integers(1, 12))
def test_blocks_of_a_ring_go_on_at_its_start(values, block):
    reader = make_reader({"kind": "ring_block", "block": block, "width": 12}, site(width=1))
    weight = table(1)

    found = vectors(reader, values, weight)

    for value, vector in zip(values, found, strict=True):
        for j in range(12):
            start = hashed(value, NAME, j // block, 50)
            assert vector[j] == weight[10 + (start + j % block) % 50, 0]


@given(keys)
def test_a_product_takes_a_row_for_each_digit(values):
    tree = {"kind": "product", "offset": 4, "radices": [3, 2, 2], "gain": 7.5}
    reader = make_reader(tree, site())
    weight = table(6)

    found = vectors(reader, values, weight)

    for value, vector in zip(values, found, strict=True):
        a, b, c = digits_of(value, 4, (3, 2, 2))
        expected = weight[10 + a] * np.float32(7.5) * weight[13 + b] * weight[15 + c]
        np.testing.assert_array_equal(vector, expected)


@given(keys)
def test_a_tensor_train_multiplies_the_cores_of_the_digits(values):
    rank = 2
    tree = {"kind": "tensor_train", "offset": 1, "radices": [3, 2, 2], "dims": [2, 3, 2]}
    reader = make_reader({**tree, "width": 11, "gain": 2.0}, site(width=rank))
    weight = table(rank).astype(np.float32)

    found = vectors(reader, values, weight)

    for value, vector in zip(values, found, strict=True):
        a, b, c = digits_of(value, 1, (3, 2, 2))
        first = weight[10 + 2 * a : 12 + 2 * a].astype(np.float64)
        second = weight[16 + 6 * b : 22 + 6 * b].astype(np.float64).reshape(rank, 3, rank)
        last = weight[28 + 2 * c : 30 + 2 * c].astype(np.float64)
        expected = np.einsum("ar,rbs,cs->abc", first, second, last).reshape(-1)[:11] * 2
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


@given(keys)
@settings(max_examples=30)
def test_a_network_is_fed_the_hashes_of_a_value(values):
    tree = {"kind": "program", "base": 20, "rows": 30, "hashes": 4, "hidden": 5, "width": 6}
    reader = make_reader({**tree, "init_scale": 0.05}, site(width=6))
    weight = table(6, seed=3) * 0.05

    found = vectors(reader, values, weight)

    flat = weight[20:50].reshape(-1).astype(np.float64)
    std = 0.05 / math.sqrt(3)
    gains = [math.sqrt(6 / 4) / std, math.sqrt(2 / 5) / std, 1 / math.sqrt(5)]
    for value, vector in zip(values, found, strict=True):
        key, name = (0, NAME + "\0network\0null") if value is None else (value, NAME + "\0network")
        mixed = [reference.mix64(key ^ reference.salt(name, k, SEED)) for k in range(4)]
        units, at = np.array([(one >> 40) / 2**23 - 1 for one in mixed]), 0
        for place, (before, after) in enumerate([(4, 5), (5, 5), (5, 6)]):
            matrix = flat[at : at + before * after].reshape(before, after)
            bias = flat[at + before * after : at + (before + 1) * after]
            at += (before + 1) * after
            units = units @ matrix * gains[place] + bias
            if place < 2:
                units = np.maximum(units, 0)
        np.testing.assert_allclose(vector, units, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"kind": "none"}, "does not match any of the expected tags"),
        ({"kind": "exact", "count": 1, "width": 7}, "too few"),
        ({"kind": "weighted_sum", "base": 99, "rows": 2}, "outside the table"),
        ({"kind": "signed_scalar", "width": 3}, "no scalars"),
        ({"kind": "product", "offset": 0, "radices": [2, 2], "gain": 1.0}, "apart"),
        ({"kind": "product", "offset": 0, "radices": [49, 2], "gain": 1.0}, "more rows"),
        ({"kind": "product", "offset": -1, "radices": [9], "gain": 1.0}, "greater than or equal"),
        ({"kind": "product", "offset": 0, "radices": [9], "gain": math.nan}, "reader"),
        (
            {"kind": "program", "base": 0, "rows": 1, "hashes": 4, "hidden": 5, "width": 6}
            | {"init_scale": 0.1},
            "too few rows",
        ),
    ],
)
def test_a_reader_that_does_not_fit_its_table_is_refused(tree, why):
    with pytest.raises(ValueError, match=why):
        make_reader(tree, site())
