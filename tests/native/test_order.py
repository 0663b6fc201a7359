import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native import order, reference
from tests.native.arrays import available, instruction_set

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "order.json").read_text())
WORDS = st.integers(0, 2**64 - 1)


@given(st.text(max_size=10), st.integers(-(2**63), 2**64 - 1), st.lists(WORDS, max_size=4))
def test_derived_numbers_are_those_of_plain_integers(tag, seed, parts):
    assert order.derive(tag, seed, *parts) == reference.derive(tag, seed, *parts)


@given(n=st.integers(0, 700), key=WORDS)
def test_permutations_are_those_of_plain_integers(n, key):
    assert order.permutation(n, key).tolist() == reference.permutation(n, key)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("n", [0, 1, 2, 255, 256, 257, 258, 65_536])
def test_a_permutation_holds_every_number_once(isa, n):
    with instruction_set(isa):
        permutation = order.permutation(n, 12345)

    assert np.array_equal(np.sort(permutation), np.arange(n))


@pytest.mark.parametrize("n", [-1, 2**32 + 1])
def test_a_length_beyond_32_bits_is_refused(n):
    with pytest.raises(ValueError, match="n is"):
        order.permutation(n, 0)


@pytest.mark.parametrize("case", GOLDEN["derive"], ids=lambda case: case["tag"])
def test_derived_numbers_are_fixed(case):
    derived = order.derive(case["tag"], int(case["seed"]), *map(int, case["parts"]))

    assert derived == int(case["value"], 16)


@pytest.mark.parametrize("case", GOLDEN["permutation"], ids=lambda case: f"{case['n']}")
def test_permutations_are_fixed(case):
    permutation = order.permutation(case["n"], int(case["key"], 16))

    assert permutation[: len(case["first"])].tolist() == case["first"]
    assert permutation[len(permutation) - len(case["last"]) :].tolist() == case["last"]
    assert order.xxh64(permutation.astype("<u4").tobytes()) == int(case["xxh64"], 16)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.bool_, np.float32, np.int32, np.uint32, np.int64, np.uint64, np.float64]
)
@given(num_columns=st.integers(0, 4), n=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_columns_follow_the_permutation(dtype, num_columns, n, seed):
    columns = list(np.random.default_rng(seed).integers(0, 200, (num_columns, n)).astype(dtype))
    permutation = order.permutation(n, seed)
    out, expected = np.zeros((num_columns, n), dtype), np.zeros((num_columns, n), dtype)

    order.permute_columns(columns, permutation, out)

    reference.permute_columns(columns, permutation, expected)
    assert np.array_equal(out, expected)


def test_a_part_of_a_block_may_be_taken():
    column, permutation = np.arange(10.0), np.array([9, 0, 3], np.uint32)
    out = np.zeros((1, 3))

    order.permute_columns([column], permutation, out)

    assert out.tolist() == [[9.0, 0.0, 3.0]]


def test_a_place_behind_the_column_is_refused_and_nothing_is_written():
    out = np.full((1, 3), -1)

    with pytest.raises(IndexError, match="leaves the 3 rows"):
        order.permute_columns([np.arange(3)], np.array([0, 3, 1], np.uint32), out)

    assert out.tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize(
    ("column", "permutation", "out", "error"),
    [
        (np.zeros(3), np.zeros(3, np.int64), np.zeros((1, 3)), TypeError),
        (np.zeros(3), np.zeros(3, np.int32), np.zeros((1, 3)), TypeError),
        (np.zeros(3), np.zeros(3, np.uint32), np.zeros((1, 3), np.float32), TypeError),
        (np.zeros(3, np.int64), np.zeros(3, np.uint32), np.zeros((1, 3)), TypeError),
        (np.zeros(3, "i2"), np.zeros(3, np.uint32), np.zeros((1, 3), "i2"), TypeError),
        (np.zeros(3), np.zeros(3, np.uint32), np.zeros((2, 3)), ValueError),
        (np.zeros(3), np.zeros(3, np.uint32), np.zeros((1, 2)), ValueError),
        (np.zeros(6)[::2], np.zeros(3, np.uint32), np.zeros((1, 3)), ValueError),
        (np.zeros((3, 1)), np.zeros(3, np.uint32), np.zeros((1, 3)), ValueError),
    ],
)
def test_columns_that_do_not_fit_are_refused(column, permutation, out, error):
    with pytest.raises(error):
        order.permute_columns([column], permutation, out)
