"""What is made of the ways an attempt ends; the texts are written after those of Ray."""

import pytest

from features.errors import (
    ConfigError,
    DataError,
    FirstRankError,
    LostRankError,
    TrainingError,
)
from launch.cluster.board import RankReport
from launch.cluster.failure import find_failure
from launch.cluster.policy import Cause

DIED = (
    "A worker health check failed.\nThe actor died unexpectedly before finishing this task.\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
)
MEMORY = (
    "A worker health check failed.\nThe actor died because its worker was killed due to the node "
    "running low on memory."
)
GLOO = "Connection closed by peer [10.0.0.1]:4242"


class GroupError(Exception):
    """As Ray's, which is not imported for this."""

    def __init__(self, failures: dict[int, str]) -> None:
        super().__init__("Training failed due to worker errors")
        self.worker_failures = {rank: RuntimeError(text) for rank, text in failures.items()}


def report(rank: int, error: BaseException) -> RankReport:
    return RankReport.of(rank, error)


def test_a_rank_that_says_what_is_wrong_is_named_before_those_that_lost_it():
    reports = [
        report(0, LostRankError("another rank was lost (peer)", "look there")),
        report(1, DataError("x.parquet: the file is gone", "put it back")),
    ]

    failure = find_failure(GroupError({0: GLOO, 1: "x"}), reports)

    assert failure.cause is Cause.MISTAKE
    assert failure.what == "rank 1: x.parquet: the file is gone"
    assert failure.exit_code == 2
    assert isinstance(failure.error("never mind"), ConfigError)


def test_what_all_ranks_say_is_said_once():
    reports = [report(rank, ConfigError("the width is 0", "raise it")) for rank in (1, 0, 2)]

    failure = find_failure(GroupError({}), reports)

    assert failure.what == "the width is 0"
    assert str(failure.error("")) == "the width is 0; raise it"


def test_what_other_ranks_heard_of_rank_0_is_not_counted():
    reports = [
        report(1, FirstRankError("the loss is no number", "lower the rate")),
        report(0, TrainingError("the loss is no number", "lower the rate")),
    ]

    failure = find_failure(GroupError({}), reports)

    assert failure.what == "the loss is no number"
    assert failure.exit_code == 1
    assert type(failure.error("")) is TrainingError


def test_a_bug_may_be_tried_again():
    failure = find_failure(GroupError({}), [report(0, ZeroDivisionError("division by zero"))])

    assert failure.cause is Cause.ERROR
    assert "unexpected ZeroDivisionError" in failure.what


def test_a_dead_process_is_named_by_its_rank():
    reports = [report(1, LostRankError("another rank was lost", "look there"))]

    failure = find_failure(GroupError({0: DIED, 1: GLOO}), reports)

    assert failure.cause is Cause.LOST
    assert failure.what == "rank 0 died (killed, or crashed)"


@pytest.mark.parametrize(
    ("error", "kernel_killed", "what"),
    [
        (
            GroupError({0: GLOO, 2: MEMORY}),
            False,
            "rank 2 was ended: its machine ran out of memory",
        ),
        (GroupError({2: DIED}), True, "rank 2 was ended: its machine ran out of memory"),
        (
            Exception("1 worker(s) were killed due to the node running low on memory."),
            False,
            "a machine of the cluster ran out of memory",
        ),
    ],
)
def test_a_worker_without_memory_is_recognised_with_what_to_do(error, kernel_killed, what):
    failure = find_failure(error, [], kernel_killed=kernel_killed)

    assert failure.cause is Cause.MEMORY
    assert failure.what == what
    assert "muxtable plan --workers" in failure.fix


def test_a_memory_error_of_python_counts_too():
    failure = find_failure(GroupError({}), [report(1, MemoryError())])

    assert failure.cause is Cause.MEMORY
    assert failure.what == "rank 1: out of memory"


def test_nodes_without_the_package_are_no_reason_to_wait():
    failure = find_failure(Exception("...\nModuleNotFoundError: No module named 'launch'"), [])

    assert failure.cause is Cause.MISTAKE
    assert "no package launch" in failure.what


def test_giving_up_says_why():
    failure = find_failure(GroupError({0: DIED}), [])

    error = failure.error("it is failure 4, and run.max_failures allows 3")

    assert error.what.endswith("given up: it is failure 4, and run.max_failures allows 3")
    assert error.exit_code == 1
