import numpy as np
import pytest

from native import limit, memory
from tests.native.arrays import available, instruction_set

ROWS = np.random.default_rng(0).permutation(5000)


def table_of():
    table = memory.allocate(5000, 32)
    table[:] = np.random.default_rng(1).random((5000, 32))
    return table


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 3001, 200_000])
def test_copying_copies_the_given_rows(isa, threads, count):
    # The largest is written around the caches.
    table, rows = table_of(), np.resize(ROWS, count)
    out = memory.allocate_vector(32 * count)

    with instruction_set(isa):
        limit.copy_rows(table, rows, out, threads)

    assert np.array_equal(out.reshape(count, 32), table[rows])


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("threads", [1, 3])
def test_reading_reads_every_float(isa, threads):
    data = table_of().reshape(-1)[:100_003]

    with instruction_set(isa):
        total = limit.read_all(data, threads)

    assert total == pytest.approx(data.sum(dtype=np.float64), rel=1e-4)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("threads", [1, 3])
def test_changing_negates_the_given_rows_and_no_other(isa, threads):
    table, rows = table_of(), ROWS[:3001]
    expected = np.array(table)
    expected[rows] *= -1

    with instruction_set(isa):
        limit.change_rows(table, rows, threads)

    assert np.array_equal(table, expected)


@pytest.mark.parametrize("bad", [-1, 5000])
def test_a_row_outside_the_table_is_refused(bad):
    rows = np.array([0, bad])

    with pytest.raises(IndexError, match="leave the table"):
        limit.copy_rows(table_of(), rows, np.zeros(64, np.float32))
    with pytest.raises(IndexError, match="leave the table"):
        limit.change_rows(table_of(), rows)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="length 16, expected 32"):
        limit.change_rows(memory.allocate(10, 16), np.zeros(1, np.int64))


def test_an_output_of_another_length_is_refused():
    with pytest.raises(ValueError, match="out has length 32, expected 64"):
        limit.copy_rows(table_of(), np.zeros(2, np.int64), np.zeros(32, np.float32))
