"""Training from a job to a result: begin or resume the run, train, evaluate the best model."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from features.dense import build_transforms
from features.routing import Layout
from features.settings import parse_size
from native.memory import tune_allocator
from sharding.ranks import Ranks
from storage.bundle import Verify
from trainer import saving
from trainer.checkpoint import CheckpointStore
from trainer.deltas import follow
from trainer.dense_optimizer import DenseOptimizer
from trainer.evaluate import evaluate
from trainer.evolve import Parent, layout_for, parent_of, take_over
from trainer.forecast import forecast_memory, libraries_from_here
from trainer.job import Job
from trainer.journal import Journal, NoJournal
from trainer.loop import Loop
from trainer.memory import peak_bytes
from trainer.metrics import Metrics
from trainer.model import build_model, choose_device, num_threads
from trainer.order import steps_per_epoch
from trainer.plan import make_plan
from trainer.preparation import Input, begin_or_resume
from trainer.progress import Progress, Silent
from trainer.run import Run, RunDirectory
from trainer.schedule import Schedule
from trainer.signals import Interrupted
from trainer.state import RunState
from trainer.stream import BatchStream
from trainer.totals import Together

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended."""

    run: Run
    signal: int | None
    """The signal that stopped it, after a checkpoint; None where it is finished."""
    step: int
    best_step: int | None = None
    """The step whose model counts: the best in validation, without validation the last."""
    metrics: Mapping[str, Metrics]
    """Of that model, by part ("valid", "test"); empty where the run was stopped."""


def train(
    job: Job,
    run_dir: Path,
    base: Path,
    *,
    progress: Progress | None = None,
    stop_requested: Callable[[], int | None] = lambda: None,
    ranks: Ranks | None = None,
) -> Result:
    """Trains a job in a folder, or goes on with the run there, to its end or a requested stop.

    Relative paths of the job start at `base`. With `ranks` every one of them calls this and gets
    the same result; rank 0 alone writes into the folder, except for checkpoints, where each writes
    its rows. Raises a MuxtableError for whatever the user can mend; nothing is written before the
    input has been checked and read through once.
    """
    started = time.monotonic()
    libraries_bytes = libraries_from_here()
    watcher = progress or Silent()
    # Before any tensor: it decides how their memory is taken.
    tune_allocator()
    device = choose_device(job.train.device)
    threads = num_threads(job.train)
    torch.set_num_threads(threads)
    ranks = ranks or Ranks.alone()
    together = Together(ranks, stop_requested)
    with RunDirectory(run_dir, job, base) as directory:
        try:
            data = begin_or_resume(directory, watcher, stop_requested, ranks)
        except Interrupted:
            return Result(run=directory.run, signal=together.poll(), step=0, metrics={})
        finished = json.loads(ranks.from_first(lambda: json.dumps(directory.run.result())))
        if finished is not None:
            watcher.note(f"the run in {run_dir} is finished: nothing is left to train")
            return _result_in(directory.run, finished)
        session = _Session(directory.run, data, device, threads, watcher, together)
        with session:
            result = session.train()
        peaks = [int(peak) for peak in ranks.gather(str(peak_bytes()).encode())]
        if result.signal is None and ranks.is_first:
            job = directory.run.job
            planned = _planned_bytes(
                job, data, session.layout, device, libraries_bytes, ranks.world_size
            )
            logger.info(
                "peak memory: %.0f MB planned, %s MB measured",
                planned / 1e6,
                ", ".join(f"{peak / 1e6:.0f}" for peak in peaks),
            )
            directory.finish(
                {
                    **session.facts(),
                    **_outcome(result),
                    "time": {
                        "training_s": round(session.state.elapsed_s, 3),
                        "this_start_s": round(time.monotonic() - started, 3),
                    },
                    "memory": {
                        "planned_bytes": planned,
                        "peak_bytes": peaks[0],
                        "peak_bytes_by_rank": peaks,
                    },
                }
            )
        # Nobody goes on before the run is finished for whoever looks.
        ranks.barrier()
        return result


def _planned_bytes(
    job: Job,
    data: Input,
    layout: Layout,
    device: torch.device,
    libraries_bytes: int,
    world_size: int,
) -> int:
    """Returns the peak of memory that `muxtable plan` foretells for a rank."""
    plan = make_plan(job, data.feature_set, data.profile, device.type, world_size, layout)
    forecast = forecast_memory(
        job, plan, data.feature_set, data.profile, data.datasets["train"], libraries_bytes
    )
    return forecast.peak_bytes


class _Session:
    """One start of a run: its parts put together, and let go at the end."""

    def __init__(
        self,
        run: Run,
        data: Input,
        device: torch.device,
        threads: int,
        progress: Progress,
        together: Together,
    ) -> None:
        self._run = run
        self._job = run.job
        self._data = data
        self._progress = progress
        self._together = together
        self._ranks = together.ranks
        self._digests = {
            "job": run.digest,
            "data": data.datasets["train"].digest(),
            "profile": data.profile.digest(),
        }
        self._stack = ExitStack()
        try:
            self._build(device, threads)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _build(self, device: torch.device, threads: int) -> None:
        job = self._job
        self._store = self._stack.enter_context(
            CheckpointStore(
                self._run.checkpoints,
                keep=job.run.keep,
                attempt=secrets.token_hex(8),
                copy_budget=parse_size(job.run.copy_budget),
                ranks=self._ranks,
            )
        )
        bundle = self._store.latest()
        profile = self._data.profile
        parent = None
        if bundle is None:
            parent = self._ranks.together(lambda: parent_of(job, self._run.base))
            layout = layout_for(self._data.feature_set, profile, job.table, parent)
            self.state = RunState()
        else:
            saving.check_digests(bundle, self._digests)
            layout = saving.layout_in(bundle)
            self.state = saving.state_in(bundle)
            self._progress.note(f"going on at step {self.state.step:,}")
        self._model = build_model(
            layout,
            sum(each.width for each in build_transforms(self._data.feature_set, profile)),
            job.table,
            job.tower,
            seed=job.train.seed,
            threads=threads,
            device=device,
            ranks=self._ranks,
        )
        self._optimizer = DenseOptimizer(self._model.tower, job.train, self._ranks)
        if bundle is not None:
            saving.restore(self._model, bundle, self._optimizer)
        if job.run.deltas:
            self._store.deltas = follow(self._model.engine, job.run.deltas, bundle)
        if bundle is not None:
            bundle.close()
        if parent is not None:
            self._take_over(parent)
        self._journal: Journal | NoJournal = NoJournal()
        if self._ranks.is_first:
            self._journal = self._stack.enter_context(
                Journal(
                    self._run.journal,
                    self.state.journal_offset,
                    self.state.step,
                    self._run.tensorboard,
                )
            )

    def _take_over(self, parent: Parent) -> None:
        """Takes a trained model over, and saves it: from here on its run is not needed."""
        data = self._data

        def fill() -> str:
            return take_over(
                parent, self._job, data.feature_set, data.profile, self._model, self._optimizer
            )

        tower = self._ranks.together(fill)
        self._progress.note(
            f'carrying on from step {parent.step:,} of "{parent.run.path}"; {tower}'
        )
        self._save(False)
        self._store.wait()

    def train(self) -> Result:
        """Trains to the end and evaluates, or to a requested stop and its checkpoint."""
        job, state = self._job, self.state
        per_epoch = steps_per_epoch(self._data.datasets["train"].num_rows, job.train.batch_size)
        total_steps = min(per_epoch * job.train.epochs, job.train.max_steps or 2**63)
        loop = Loop(
            model=self._model,
            optimizer=self._optimizer,
            schedule=Schedule(
                warmup_steps=job.train.warmup_steps,
                decay=job.train.decay,
                final=job.train.final_learning_rate,
                total_steps=total_steps,
            ),
            settings=job.train,
            steps_per_epoch=per_epoch,
            checkpoint_every=job.run.checkpoint_every,
            state=state,
            journal=self._journal,
            progress=self._progress,
            open_epoch=self._open_epoch,
            validate=self._validate if "valid" in self._data.datasets else None,
            save=self._save,
            together=self._together,
            saved_step=state.step or None,
        )
        signal = loop.run()
        self._store.wait()
        if signal is not None:
            return Result(run=self._run, signal=signal, step=state.step, metrics={})
        try:
            return self._evaluated()
        except Interrupted:
            # The last checkpoint is written: the next start comes straight back here.
            signal = self._together.signal
            return Result(run=self._run, signal=signal, step=state.step, metrics={})

    @property
    def layout(self) -> Layout:
        """The layout of the table."""
        return self._model.layout

    def facts(self) -> dict[str, Any]:
        """Returns what result.json says beside the metrics."""
        state, engine = self.state, self._model.engine
        return {
            "format": 1,
            "digests": self._digests,
            "steps": state.step,
            "epochs": state.epoch,
            "samples": state.samples,
            "stopped_early": state.is_stopped_early,
            "rows": {part: data.num_rows for part, data in self._data.datasets.items()},
            "table": {
                "engine": engine.name,
                "rows": engine.rows,
                "width": engine.width,
                "parameter_bytes": engine.rows * engine.width * 4,
                "memory_bytes": engine.memory_bytes(),
            },
            "world_size": self._ranks.world_size,
            "tower_parameters": sum(p.numel() for p in self._model.tower.parameters()),
        }

    def _open_epoch(self, epoch: int, step: int) -> BatchStream:
        return BatchStream(
            self._data.datasets["train"],
            self._data.feature_set,
            self._data.profile,
            self._job.data,
            batch_size=self._job.train.batch_size,
            seed=self._job.train.seed,
            epoch=epoch,
            step=step,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
        )

    def _save(self, is_best: bool) -> None:
        sharded, tensors = saving.tensors_of(self._model, self._optimizer)
        self._store.save_async(
            self.state.step,
            sharded,
            tensors,
            {},
            saving.content_of(self._model, self.state, self._digests),
            best=is_best,
        )

    def _validate(self) -> Metrics:
        return self._evaluate("valid")

    def _evaluate(self, part: str) -> Metrics:
        dataset = self._data.datasets[part]
        self._progress.stage(part, dataset.num_rows)
        return evaluate(
            self._model,
            dataset,
            self._data.feature_set,
            self._data.profile,
            scratch=self._run.path,
            buffer=self._job.train.metrics_buffer,
            on_rows=self._progress.evaluated,
            together=self._together,
        )

    def _evaluated(self) -> Result:
        state = self.state
        best_step = state.step if state.best_step is None else state.best_step
        if best_step != state.step:
            # Several ranks check, by crc32, what each reads, and no more.
            verify: Verify = True if self._ranks.world_size == 1 else "lazy"
            with saving.open_checkpoint(self._run.checkpoints, "best", verify) as bundle:
                saving.restore(self._model, bundle, None)
        metrics = {}
        if state.best_metrics is not None:
            metrics["valid"] = state.best_metrics
        if "test" in self._data.datasets:
            metrics["test"] = self._evaluate("test")
        return Result(
            run=self._run, signal=None, step=state.step, best_step=best_step, metrics=metrics
        )


def _outcome(result: Result) -> dict[str, Any]:
    return {
        "best_step": result.best_step,
        "metrics": {part: metrics.to_json() for part, metrics in result.metrics.items()},
    }


def _result_in(run: Run, document: Mapping[str, Any]) -> Result:
    return Result(
        run=run,
        signal=None,
        step=document["steps"],
        best_step=document["best_step"],
        metrics={part: Metrics.from_json(tree) for part, tree in document["metrics"].items()},
    )
