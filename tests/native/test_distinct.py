import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import distinct, kernels, reference
from tests.native.arrays import available, instruction_set, spread


@st.composite
def batches(draw):
    """Draws (matrices, bounds): rows of lookups and bags, and owners with or without rows."""
    table_rows = draw(st.sampled_from([1, 7, 300, 70_000, 2**26, 2**40]))
    inner = draw(st.lists(st.integers(0, table_rows), max_size=4))
    bounds = [0, *sorted(inner), table_rows]
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    few = draw(st.integers(1, 200))
    pool = generator.integers(0, table_rows, few)
    shapes = [
        (draw(st.integers(0, 3)), draw(st.integers(0, 60))) for _ in range(draw(st.integers(1, 3)))
    ]
    return [generator.choice(pool, shape) for shape in shapes], bounds


def by_row(found, bounds):
    """Returns {global row: its entries}, and checks that owners' rows stand together."""
    owners = np.repeat(np.arange(len(found.counts)), found.counts)
    rows = found.rows + np.asarray(bounds)[owners]
    assert all(bounds[k] <= row < bounds[k + 1] for k, row in zip(owners, rows, strict=True))
    parts = np.split(found.order, found.starts[1:-1])
    return {int(row): part.tolist() for row, part in zip(rows, parts, strict=len(rows) > 0)}


@settings(max_examples=300, deadline=None)
@given(batch=batches())
def test_distinct_rows_are_those_of_numpy_grouped_by_owner(batch):
    matrices, bounds = batch
    flat = np.concatenate([rows.reshape(-1) for rows in matrices])

    found = distinct.find_distinct(matrices, bounds)

    owners = np.repeat(np.arange(len(bounds) - 1), found.counts)
    rows = found.rows + np.asarray(bounds)[owners]
    expected = np.unique(flat)
    np.testing.assert_array_equal(np.sort(rows), expected)
    np.testing.assert_array_equal(np.searchsorted(bounds, rows, side="right") - 1, owners)
    np.testing.assert_array_equal(rows[found.places], flat)
    assert (found.starts[0], found.starts[-1]) == (0, len(flat))
    for u, row in enumerate(rows):
        entries = found.order[found.starts[u] : found.starts[u + 1]]
        np.testing.assert_array_equal(entries, np.flatnonzero(flat == row))


@settings(max_examples=50, deadline=None)
@given(batch=batches())
def test_the_twin_finds_the_same_rows_and_entries(batch):
    matrices, bounds = batch

    found = distinct.find_distinct(matrices, bounds)

    twin = reference.find_distinct(matrices, bounds)
    assert found.counts == twin.counts
    assert by_row(found, bounds) == by_row(twin, bounds)


def batch_of(width, num_samples, seed=0):
    """Returns (rows, columns, bags, grad) with two bags whose samples are partly empty."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 60, (3, num_samples))
    columns = np.arange(3) * (width + 1)
    column, bags = 3 * (width + 1), []
    for mean in (True, False):
        lengths = generator.integers(0, 4, num_samples)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bags.append((generator.integers(0, 60, (2, int(offsets[-1]))), offsets, mean, column))
        column += 2 * width
    grad = generator.standard_normal((num_samples, column + 2)).astype(np.float32)
    return rows, columns, bags, grad


def found_in(batch, bounds):
    rows, _, bags, _ = batch
    return distinct.find_distinct([rows, *(bag[0] for bag in bags)], bounds)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("width", [1, 7, 15, 16, 32, 33, 128, 129, 1024])
@pytest.mark.parametrize("num_samples", [0, 1, 50])
def test_gradients_are_summed_as_the_twin_does_it(isa, width, num_samples):
    batch, bounds = batch_of(width, num_samples), [0, 20, 20, 60]
    found = found_in(batch, bounds)
    outs = [spread(np.full((count, width), 9, np.float32)) for count in found.counts]
    expected = [np.full((count, width), 9, np.float32) for count in found.counts]

    with instruction_set(isa):
        distinct.sum_gradients(found, *batch, outs, width, threads=2)

    reference.sum_gradients(found, *batch, expected, width)
    for out, wanted in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "sgd"])
def test_a_step_on_sums_is_bit_for_bit_the_step_on_the_batch(optimizer):
    width, batch = 16, batch_of(16, 3000)
    tables = [np.ones((60, width), np.float32) for _ in range(2)]
    states = [(np.zeros(60, np.float32),) if optimizer != "sgd" else () for _ in range(2)]
    found = found_in(batch, [0, 60])
    sums = np.empty((len(found.rows), width), np.float32)

    distinct.sum_gradients(found, *batch, [sums], width, threads=3)
    zero = np.zeros(1, np.int64)
    kernels.update(optimizer, tables[0], states[0], found.rows[None], zero, [], sums, 0.1)
    kernels.update(optimizer, tables[1], states[1], *batch, 0.1)

    np.testing.assert_array_equal(tables[0], tables[1])


def test_rows_outside_the_bounds_are_refused_by_place():
    for row in (-1, 5):
        with pytest.raises(IndexError, match=rf"rows\[1\]\[0, 2\] is {row}, the table has 5 rows"):
            distinct.find_distinct([np.zeros((2, 3), np.int64), np.array([[0, 1, row]])], [0, 5])


@pytest.mark.parametrize("bounds", [[0], [1, 5], [0, 4, 3, 5]])
def test_bounds_that_fall_or_do_not_start_at_zero_are_refused(bounds):
    with pytest.raises(ValueError, match="bounds"):
        distinct.find_distinct([np.zeros((1, 1), np.int64)], bounds)


def test_a_batch_other_than_the_one_searched_is_refused():
    found, width = found_in(batch_of(4, 5), [0, 60]), 4
    outs = [np.empty((len(found.rows), width), np.float32)]

    with pytest.raises(ValueError, match="order"):
        distinct.sum_gradients(found, *batch_of(4, 6), outs, width)
    with pytest.raises(ValueError, match="starts"):
        distinct.sum_gradients(found, *batch_of(4, 5), [outs[0][1:]], width)
    found.order[0] = 10_000
    with pytest.raises(ValueError, match="distinct rows"):
        distinct.sum_gradients(found, *batch_of(4, 5), outs, width)
