from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from launch.cluster.policy import IDLE_LIMIT, Cause, GiveUp, Restart, Shrink, State, decide

counts = st.integers(0, 20)
states = st.builds(
    State,
    cause=st.sampled_from(Cause),
    failures=st.integers(1, 20),
    max_failures=counts,
    idle=counts,
    wanted=st.integers(1, 20),
    workers=st.integers(1, 20),
    available=counts,
).map(lambda state: replace(state, workers=min(state.workers, state.wanted)))

LOST = State(cause=Cause.LOST, failures=1, max_failures=3, idle=0, wanted=4, workers=4, available=4)


def test_a_lost_worker_is_made_up_for():
    decision = decide(LOST)

    assert decision == Restart(4, "failure 1 of 3 allowed")


def test_a_lost_node_leaves_fewer_workers_and_a_new_one_gives_them_back():
    shrunk = decide(replace(LOST, available=3))
    grown = decide(replace(LOST, failures=2, workers=3, available=9))

    assert shrunk == Shrink(3, "failure 1 of 3 allowed; 3 workers are left")
    assert grown == Restart(4, "failure 2 of 3 allowed")


def test_out_of_memory_is_not_answered_by_giving_each_worker_more():
    decision = decide(replace(LOST, cause=Cause.MEMORY, available=3))

    assert isinstance(decision, GiveUp)
    assert "more memory" in decision.reason


@given(states)
def test_mistakes_are_never_tried_again(state):
    assert isinstance(decide(replace(state, cause=Cause.MISTAKE)), GiveUp)


@given(states)
def test_no_decision_asks_for_workers_that_are_not_there(state):
    decision = decide(state)

    if not isinstance(decision, GiveUp):
        assert 1 <= decision.workers <= min(state.wanted, state.available)
        assert isinstance(decision, Shrink) == (decision.workers < state.workers)


@given(states)
def test_every_run_of_failures_comes_to_an_end(state):
    attempts = 0
    while not isinstance(decide(state), GiveUp):
        state = replace(state, failures=state.failures + 1)
        attempts += 1

    assert attempts <= state.max_failures


@given(states)
def test_attempts_that_come_no_further_end_before_the_budget_does(state):
    assert isinstance(decide(replace(state, idle=IDLE_LIMIT)), GiveUp)


@given(states)
def test_more_workers_or_a_larger_budget_never_make_it_give_up(state):
    if not isinstance(decide(state), GiveUp):
        better = replace(state, max_failures=state.max_failures + 1, available=state.available + 1)

        assert not isinstance(decide(better), GiveUp)


@given(states)
def test_every_decision_gives_its_reason(state):
    assert decide(state).reason
