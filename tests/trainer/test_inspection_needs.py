import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.collisions import expected_collisions
from trainer.inspection_needs import rows_needed


@given(st.integers(2, 10**7), st.integers(1, 5), st.floats(1e-6, 0.9))
def test_so_many_rows_hold_the_rate_and_fewer_do_not(num_values, num_lookups, rate) -> None:
    rows = rows_needed(num_values, num_lookups, rate)

    assert expected_collisions(num_values, rows, num_lookups)[1] <= rate * (1 + 1e-6)
    if rows > 2:
        fewer = max(1, int(0.999 * rows) - 1)
        assert expected_collisions(num_values, fewer, num_lookups)[1] > rate


@pytest.mark.parametrize(("num_values", "rate"), [(0, 0.1), (1, 0.1), (50, 1.0)])
def test_where_nothing_can_collide_a_row_is_enough(num_values, rate) -> None:
    assert rows_needed(num_values, 2, rate) == 1
