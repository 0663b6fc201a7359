import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from launch.sweep.statistics import sample, two_sided_p, welch

numbers = st.floats(-10, 10).map(lambda x: round(x, 3))


def test_mean_and_spread_are_those_of_numpy():
    values = [0.81, 0.79, 0.84]

    found = sample(values)

    assert found.count == 3
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))


def test_one_measurement_has_no_spread_and_no_p():
    assert sample([0.5]).std is None
    assert welch([0.5], [0.4, 0.3]).p is None
    assert welch([0.5], [0.4, 0.3]).difference == pytest.approx(0.15)


def test_two_sides_that_do_not_vary_have_no_p():
    assert welch([0.5, 0.5], [0.4, 0.4]).p is None


# scipy says so of a side that does not vary, which we take like any other.
@pytest.mark.filterwarnings("ignore:Precision loss")
@given(st.lists(numbers, min_size=2, max_size=9), st.lists(numbers, min_size=2, max_size=9))
def test_p_is_that_of_scipy(first, second):
    if np.var(first) + np.var(second) < 1e-9:
        return

    found = welch(first, second)

    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second), abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-8, abs=1e-300)


@given(st.floats(-500, 500), st.floats(0.5, 500))
def test_the_tail_is_that_of_scipy(t, freedom):
    expected = 2 * stats.t.sf(abs(t), freedom)

    assert two_sided_p(t, freedom) == pytest.approx(expected, rel=1e-8, abs=1e-290)


def test_an_infinite_difference_is_no_chance():
    assert two_sided_p(math.inf, 3) == 0
