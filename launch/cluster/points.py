"""The points as Ray tasks, over the cores of this machine or the nodes of a cluster.

A point is one task of one thread in a process of its own, so that its peak of memory is its own
and a crash takes nothing else along. What a lost worker, a lost node or too little memory ended is
tried again, a few times; what its own training says is final.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch.cluster import connection
from launch.cluster.driver import worker_environment, worker_resources
from launch.cluster.failure import kernel_kills
from launch.sweep.measure import Assignment, Outcome, run_point

if TYPE_CHECKING:
    from launch.console import Output

logger = logging.getLogger(__name__)

ATTEMPTS = 3
_POLL_S = 0.2
_MEMORY = "a machine ran out of memory (`muxtable plan` forecasts a point's; use fewer --workers)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Where the points are trained."""

    address: str | None
    workers: int | None
    """Points at a time; None for as many as there are cores."""
    device: str
    """train.device of the job."""


def run_points(
    assignments: Mapping[str, Assignment],
    order: Order,
    output: Output,
    ended: Callable[[str, Outcome], None],
) -> int | None:
    """Runs all points, by key, and tells `ended` of each; returns the signal that stopped it.

    Points that were running when it was stopped have no outcome. Raises ConfigError for a cluster
    that cannot be used, and what `ended` raises.
    """
    from trainer.signals import StopSignals

    where = connection.find_address(order.address)
    is_local = where == connection.LOCAL
    workers = order.workers or (_cores() if is_local else None)
    if is_local and workers is not None:
        workers = min(workers, len(assignments))
    with connection.connected(where, workers or 1):
        resources = worker_resources(order.device, workers or 1)
        if workers is None:
            workers = max(1, connection.capacity(resources).free)
        connection.refuse_too_few(workers, resources, where)
        at_a_time = f"{min(workers, len(assignments))} at a time"
        output.note(f"{len(assignments)} points to train, {at_a_time}, {_place(where)}")
        # After Ray, which takes the signals for itself.
        with StopSignals() as stop:
            remote = _remote(resources, {} if is_local else worker_environment())
            return _Tasks(remote, workers, ended).run(assignments, stop)


class _Tasks:
    """The points that are running, and those that wait."""

    def __init__(self, remote: Any, workers: int, ended: Callable[[str, Outcome], None]) -> None:
        self._remote = remote
        self._workers = workers
        self._ended = ended
        # Key, and how many processes the kernel had ended for their memory when it began.
        self._running: dict[Any, tuple[str, int]] = {}
        self._attempts: dict[str, int] = {}

    def run(
        self, assignments: Mapping[str, Assignment], stop: Callable[[], int | None]
    ) -> int | None:
        """Runs them all; returns the signal where one came first."""
        import ray

        waiting = list(assignments)[::-1]
        while waiting or self._running:
            while waiting and len(self._running) < self._workers:
                key = waiting.pop()
                self._attempts[key] = self._attempts.get(key, 0) + 1
                self._running[self._remote.remote(assignments[key])] = key, kernel_kills()
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
            for reference in ready:
                key, kills = self._running.pop(reference)
                outcome = self._outcome(reference, kernel_killed=kernel_kills() > kills)
                if outcome.by_codec or outcome.is_own or self._attempts[key] >= ATTEMPTS:
                    self._ended(key, outcome)
                    continue
                logger.warning(
                    "%s: trying that point again, attempt %d of %d",
                    outcome.what,
                    self._attempts[key] + 1,
                    ATTEMPTS,
                )
                waiting.append(key)
            if (signal := stop()) is not None:
                return signal
        return None

    def _outcome(self, reference: Any, *, kernel_killed: bool) -> Outcome:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.OutOfMemoryError:
            return _lost(_MEMORY)
        except ray.exceptions.NodeDiedError:
            return _lost("a node is gone")
        except ray.exceptions.WorkerCrashedError:
            return _lost(_MEMORY if kernel_killed else "a worker died (killed, or crashed)")
        except ray.exceptions.RayError as exc:
            lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
            return _lost(f"a worker failed: {lines[-1][:300] if lines else exc!r}")


def _lost(what: str) -> Outcome:
    return Outcome(by_codec={}, what=what, is_own=False)


def _remote(resources: Mapping[str, float], environment: Mapping[str, str]) -> Any:
    import ray

    # Workers of a local cluster have this process's environment, and those that Ray starts in
    # advance can be used.
    runtime_env = {"env_vars": dict(environment)} if environment else None
    return ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        # A process of its own for every point.
        max_calls=1,
        max_retries=0,
        runtime_env=runtime_env,
    )(run_point)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _place(where: str) -> str:
    return "on this machine" if where == connection.LOCAL else f"on the Ray cluster at {where}"
