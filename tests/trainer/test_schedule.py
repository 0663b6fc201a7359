import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.schedule import Schedule


def test_warm_up_rises_in_equal_parts_to_one() -> None:
    schedule = Schedule(warmup_steps=4, decay="none", final=0.0, total_steps=10)

    factors = [schedule.factor(step) for step in range(10)]

    assert factors == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_decay_ends_at_the_final_share_and_never_rises(decay, warmup) -> None:
    schedule = Schedule(warmup_steps=warmup, decay=decay, final=0.1, total_steps=50)

    factors = [schedule.factor(step) for step in range(max(warmup - 1, 0), 50)]

    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors))


def test_linear_and_cosine_meet_halfway() -> None:
    linear = Schedule(warmup_steps=1, decay="linear", final=0.2, total_steps=101)
    cosine = Schedule(warmup_steps=1, decay="cosine", final=0.2, total_steps=101)

    halfway = [linear.factor(50), cosine.factor(50)]

    assert halfway == pytest.approx([0.6, 0.6])
    assert cosine.factor(25) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


@given(
    warmup=st.integers(0, 50),
    decay=st.sampled_from(["none", "linear", "cosine"]),
    final=st.floats(0, 1),
    total=st.integers(1, 60),
    step=st.integers(0, 100),
)
def test_factor_is_a_share_whatever_the_run_is(warmup, decay, final, total, step) -> None:
    schedule = Schedule(warmup_steps=warmup, decay=decay, final=final, total_steps=total)

    factor = schedule.factor(step)

    assert 0 <= factor <= 1


def test_a_run_of_one_step_learns_at_the_full_rate() -> None:
    schedule = Schedule(warmup_steps=0, decay="linear", final=0.0, total_steps=1)

    factor = schedule.factor(0)

    assert factor == 1
