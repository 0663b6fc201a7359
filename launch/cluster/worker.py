"""What a worker of Ray Train runs: one rank of a training."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cluster.board import PostedLog, PostedProgress, RankReport, StopWatch
from launch.logs import PACKAGES
from launch.training import train_and_report

if TYPE_CHECKING:
    from trainer.job import Job

_ANSWER_S = 10.0
# Registered by ray.data, which comes with ray.train.
_EXTENSIONS = (
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "ray.data.arrow_variable_shaped_tensor",
    "ray.data.arrow_pickled_object",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the driver gives every worker; all paths are absolute."""

    job: Job
    folder: Path
    base: Path
    command: str
    board: Any
    timeout_s: float


def run_rank(config: dict[str, Any]) -> dict[str, Any]:
    """Trains one rank; returns {"signal": number} or {"trained": the command's document}.

    Its error stands on the board before it is raised, in our words: what Ray makes of it is a
    traceback inside a traceback.
    """
    assignment: Assignment = config["assignment"]
    rank = int(os.environ["RANK"])
    try:
        return _train(assignment, rank)
    except BaseException as exc:
        import ray

        report = RankReport.of(rank, exc)
        # Without the board there is nobody left to tell.
        with suppress(ray.exceptions.RayError):
            ray.get(assignment.board.fail.remote(report), timeout=_ANSWER_S)
        raise


def _train(assignment: Assignment, rank: int) -> dict[str, Any]:
    from sharding.ranks import Ranks

    _forget_extensions()
    with ExitStack() as stack:
        first: dict[str, Any] = {}
        if rank == 0:
            progress = PostedProgress(assignment.board)
            stack.enter_context(_logging_to(progress))
            stop = stack.enter_context(StopWatch(assignment.board))
            first = {"progress": progress, "stop_requested": stop}
        trained = train_and_report(
            assignment.job,
            assignment.folder,
            assignment.base,
            assignment.command,
            ranks=Ranks.join(timeout_s=assignment.timeout_s),
            **first,
        )
    return {"signal": trained} if isinstance(trained, int) else {"trained": trained}


def _forget_extensions() -> None:
    """Takes Ray's types of columns out of Arrow again: with them, opening a file unpickles."""
    import pyarrow as pa

    for name in _EXTENSIONS:
        with suppress(KeyError):
            pa.unregister_extension_type(name)


class _logging_to:  # noqa: N801  a context manager
    """While entered, the warnings of our packages go to the board."""

    def __init__(self, progress: PostedProgress) -> None:
        self._handler = PostedLog(progress)

    def __enter__(self) -> None:
        for name in PACKAGES:
            logging.getLogger(name).addHandler(self._handler)

    def __exit__(self, *exc_info: object) -> None:
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(self._handler)
