import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from features.sketch import DistinctKeys, RowSample, distinct, quantile_edges, row_priorities
from native.hashing import mix64

KEYS = nps.arrays(np.uint64, st.integers(0, 300), elements=st.integers(0, 2**64 - 1))
NUMBERS = nps.arrays(
    np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6) | st.integers(0, 5).map(float)
)


def counted(keys, capacity, cuts):
    counter = DistinctKeys(capacity)
    for part in np.split(keys, sorted(cut % (len(keys) + 1) for cut in cuts)):
        counter.add(part)
    return counter


@given(KEYS, st.lists(st.integers(0, 300), max_size=4))
def test_few_keys_are_counted_exactly_and_had_back(keys, cuts):
    counter = counted(keys, 300, cuts)

    assert counter.is_exact
    assert counter.estimate() == len(set(keys.tolist()))
    assert counter.keys().tolist() == sorted(set(keys.tolist()))


@given(KEYS, st.lists(st.integers(0, 300), max_size=4), st.integers(2, 40))
def test_a_count_does_not_depend_on_how_the_keys_were_cut(keys, cuts, capacity):
    whole = counted(keys, capacity, [])
    parts = counted(keys, capacity, cuts)

    assert parts.estimate() == whole.estimate()
    assert parts.is_exact == whole.is_exact == (len(set(keys.tolist())) <= capacity)


@pytest.mark.parametrize("size", [70_000, 1_000_000, 10_000_000])
def test_many_keys_are_counted_within_two_percent(size):
    counter = DistinctKeys()

    # Twice, and in a row: the worst keys are those that look alike.
    for first in [*range(0, size, 500_000)] * 2:
        counter.add(np.arange(first, min(first + 500_000, size), dtype=np.uint64))

    assert not counter.is_exact
    assert counter.estimate() == pytest.approx(size, rel=0.02)
    with pytest.raises(ValueError, match="more than 65536"):
        counter.keys()


def test_the_count_of_random_keys_has_no_bias():
    errors = []

    for seed in range(30):
        counter = DistinctKeys(1024)
        counter.add(np.random.default_rng(seed).integers(0, 2**64, 50_000, np.uint64))
        errors.append(counter.estimate() / 50_000 - 1)

    # The standard error of one count is 1 / sqrt(1024) = 3.1 %, of the mean of thirty 0.6 %.
    assert np.std(errors) == pytest.approx(1 / 32, rel=0.5)
    assert abs(np.mean(errors)) < 0.02


@given(NUMBERS)
def test_all_rows_are_sampled_while_they_fit(values):
    sample = RowSample(200)

    sample.add(values, row_priorities(0, len(values), 7))

    assert sample.values().tolist() == sorted(values.tolist())


@given(
    NUMBERS,
    st.lists(st.integers(0, 200), max_size=4),
    st.integers(1, 50),
    st.integers(0, 2**64 - 1),
)
def test_a_sample_does_not_depend_on_how_the_rows_were_cut(values, cuts, capacity, key):
    whole, parts = RowSample(capacity), RowSample(capacity)
    whole.add(values, row_priorities(0, len(values), key))

    first = 0
    for part in np.split(values, sorted(cut % (len(values) + 1) for cut in cuts)):
        parts.add(part, row_priorities(first, len(part), key))
        first += len(part)

    assert parts.values().tolist() == whole.values().tolist()
    assert len(whole.values()) == min(capacity, len(values))


def test_quantiles_of_a_sample_are_near_those_of_all_rows():
    sample = RowSample()
    rows = 2_000_000

    # Sorted rows are the worst case for a sample that is not uniform.
    for first in range(0, rows, 100_000):
        values = np.arange(first, first + 100_000, dtype=np.float64)
        sample.add(values, row_priorities(first, 100_000, 3))

    found = np.quantile(sample.values(), [0.01, 0.1, 0.5, 0.9, 0.99]) / rows
    assert found == pytest.approx([0.01, 0.1, 0.5, 0.9, 0.99], abs=0.01)


@given(NUMBERS, st.integers(2, 20))
@settings(max_examples=200)
def test_edges_cut_values_into_buckets_none_of_which_is_empty(values, buckets):
    values = np.sort(values)

    edges = quantile_edges(values, buckets)

    sizes = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    assert list(edges) == sorted(set(edges))
    assert len(edges) < buckets
    assert (sizes > 0).all()


def test_edges_of_values_that_do_not_repeat_make_equal_buckets():
    values = np.arange(100.0)

    edges = quantile_edges(values, 4)

    assert edges == (25, 50, 75)


@pytest.mark.parametrize(("values", "edges"), [([], ()), ([5.0] * 9, ()), ([1.0, 1, 1, 9], (9,))])
def test_few_different_values_make_few_buckets(values, edges):
    assert quantile_edges(np.array(values), 4) == edges


@given(KEYS)
def test_distinct_is_the_sorted_set(keys):
    assert distinct(keys).tolist() == sorted(set(keys.tolist()))


def test_the_priority_of_a_row_is_a_function_of_its_number():
    whole = row_priorities(0, 10, 9)

    tail = row_priorities(6, 4, 9)

    assert tail.tolist() == whole[6:].tolist()
    assert len(set(mix64(whole).tolist())) == 10
