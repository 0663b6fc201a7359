"""The driver: starts attempts through Ray Train, shows their progress, and acts on the policy.

Ray's own retries are off: it tries everything again, a wrong job file too, and without limit what
it counts as its controller's. So each attempt is one `fit`, and what follows is `policy.decide`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cluster import connection
from launch.cluster.board import POLL_S, Board, RankReport
from launch.cluster.failure import Failure, find_failure, kernel_kills
from launch.cluster.policy import GiveUp, State, decide
from launch.cluster.worker import Assignment, run_rank
from launch.progress import RunProgress

if TYPE_CHECKING:
    from launch.console import Output
    from trainer.job import Job

logger = logging.getLogger(__name__)

# A rank that is frozen or cut off is given up after this long; a dead one is noticed at once.
TIMEOUT_S = 60.0
# For the resources of an ended group to be free again, and for dead nodes to be known.
_SETTLE_S = 15.0
# Where Ray unpacks the working directory of a job.
_COPIES = "working_dir_files"
_SHOWN = frozenset({"stage", "trained", "evaluated", "validated", "saved", "note"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be trained, and with how many workers."""

    job: Job
    folder: Path
    base: Path
    command: str
    workers: int


def train_on_cluster(order: Order, address: str | None, output: Output) -> dict[str, Any] | int:
    """Trains on a cluster; returns the document of `muxtable train`, or the signal that stopped it.

    Raises ConfigError for a cluster that cannot be used, and what the ranks report.
    """
    from trainer.signals import StopSignals

    where = connection.find_address(address)
    output.note(
        f"starting a local Ray with {order.workers} workers"
        if where == connection.LOCAL
        else f"joining the Ray cluster at {where}"
    )
    if _COPIES in order.folder.absolute().parts:
        output.warn(
            f"the run lies in the cluster's copy of the job's folder ({order.folder}), and is lost "
            "with it: --set run.dir=/FOLDER names one that stays"
        )
    with connection.connected(where, order.workers) as scratch:
        resources = worker_resources(order.job.train.device, order.workers)
        connection.refuse_too_few(order.workers, resources, where)
        # After Ray, which takes the signals for itself.
        with StopSignals() as stop, RunProgress(output) as progress:
            return _Driver(order, resources, scratch, output, progress, stop).run()


def worker_resources(device: str, workers: int) -> dict[str, float]:
    """Returns what each worker is given: a CPU, and a GPU where the job asks for one or they are
    there for all."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    wants_gpu = device == "cuda" or (device == "auto" and gpus >= workers)
    return {"CPU": 1.0, "GPU": 1.0} if wants_gpu else {"CPU": 1.0}


class _Driver:
    """A run's attempts, one after the other."""

    def __init__(
        self,
        order: Order,
        resources: dict[str, float],
        scratch: Path,
        output: Output,
        progress: RunProgress,
        stop: Callable[[], int | None],
    ) -> None:
        self._order = order
        self._resources = resources
        self._scratch = scratch
        self._output = output
        self._progress = progress
        self._stop = stop
        self._saved_step = 0

    def run(self) -> dict[str, Any] | int:
        """Makes attempts until one ends, a stop is asked for, or the policy gives up."""
        workers = self._order.workers
        failures = idle = 0
        while True:
            saved_before = self._saved_step
            outcome = self._attempt(workers)
            if not isinstance(outcome, Failure):
                return outcome
            signal = self._stop()
            if signal is not None:
                return signal
            failures += 1
            idle = idle + 1 if self._saved_step == saved_before else 0
            decision = decide(
                State(
                    cause=outcome.cause,
                    failures=failures,
                    max_failures=self._order.job.run.max_failures,
                    idle=idle,
                    wanted=self._order.workers,
                    workers=workers,
                    available=connection.settled_capacity(
                        self._resources, self._order.workers, _SETTLE_S
                    ),
                )
            )
            if isinstance(decision, GiveUp):
                raise outcome.error(decision.reason)
            logger.warning(
                "%s: starting again with %d workers from step %d: %s",
                outcome.what,
                decision.workers,
                self._saved_step,
                decision.reason,
            )
            workers = decision.workers

    def _attempt(self, workers: int) -> dict[str, Any] | int | Failure:
        import ray

        board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=_here()).remote()
        kills = kernel_kills()
        fit = _Fit(self._trainer(board, workers))
        fit.start()
        told = False
        while fit.is_alive():
            fit.join(POLL_S)
            self._show(board)
            signal = self._stop()
            if signal is not None and not told:
                told = True
                self._output.note("stopping after a checkpoint; a second signal ends it at once")
                board.stop.remote(signal)
        self._show(board)
        if fit.error is None:
            outcome: dict[str, Any] = fit.value
            return outcome["signal"] if "signal" in outcome else outcome["trained"]
        expected = (ray.train.TrainingFailedError, ray.exceptions.RayError)
        if not isinstance(fit.error, expected):
            raise fit.error
        return find_failure(fit.error, _reports(board), kernel_killed=kernel_kills() > kills)

    def _trainer(self, board: Any, workers: int) -> Any:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        order, has_gpu = self._order, "GPU" in self._resources
        assignment = Assignment(
            job=order.job,
            folder=order.folder.absolute(),
            base=order.base.absolute(),
            command=order.command,
            board=board,
            timeout_s=TIMEOUT_S,
        )
        return TorchTrainer(
            run_rank,
            train_loop_config={"assignment": assignment},
            torch_config=TorchConfig(
                backend="nccl" if has_gpu else "gloo", timeout_s=int(TIMEOUT_S)
            ),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=has_gpu, resources_per_worker=self._resources
            ),
            run_config=ray.train.RunConfig(
                # Ray insists on a folder; nothing of ours is in it.
                name="ray",
                storage_path=str(self._scratch),
                failure_config=ray.train.FailureConfig(
                    max_failures=0, controller_failure_limit=1, max_preemption_failures=0
                ),
                worker_runtime_env={"env_vars": worker_environment()},
            ),
        )

    def _show(self, board: Any) -> None:
        import ray

        try:
            events = ray.get(board.take.remote(), timeout=10)
        except ray.exceptions.RayError:
            # It lives on this node: the attempt ends with it.
            return
        for name, arguments in events:
            if name == "warn":
                self._output.warn(*arguments)
            elif name in _SHOWN:
                getattr(self._progress, name)(*arguments)
            if name == "saved":
                self._saved_step = max(self._saved_step, arguments[0])


class _Fit(threading.Thread):
    """One `fit`, in a thread: there Ray leaves Ctrl-C alone, and this one can show progress."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="fit", daemon=True)
        self._trainer = trainer
        self.value: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Runs it and keeps how it ended."""
        try:
            self.value = self._trainer.fit().return_value
        except Exception as exc:  # noqa: BLE001  raised by the thread that waits
            self.error = exc


def _reports(board: Any) -> list[RankReport]:
    import ray

    try:
        return ray.get(board.failures.remote(), timeout=10)
    except ray.exceptions.RayError:
        return []


def _here() -> Any:
    """Places an actor on the driver's node: it is to live as long as the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def worker_environment() -> dict[str, str]:
    """Returns the environment of the workers, where Ray does not give it on itself."""
    names = ("OMP_WAIT_POLICY", "TORCH_SHOW_CPP_STACKTRACES", "GLOO_SOCKET_IFNAME")
    return {
        # Set to 1 it would bring back what Ray 2.55 mended.
        "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "0",
        **{name: os.environ[name] for name in names if name in os.environ},
    }
