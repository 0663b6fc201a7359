"""The loop: batches in, a trained model out; stopped and resumed at any step without a trace.

At the top of the loop stands a step that is complete. What is due there is done in one order:
validate, save, then train on. A checkpoint may hold a step whose validation is still due (a signal
cut it off), so a resumed run passes the same place and does what is left of it.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from features.batches import KeyBatch
from features.errors import TrainingError
from trainer.dense_optimizer import DenseOptimizer
from trainer.journal import Journal, NoJournal
from trainer.losses import binary_cross_entropy
from trainer.metrics import Metrics
from trainer.model import Model
from trainer.progress import Meter, Progress
from trainer.schedule import Schedule
from trainer.settings import TrainSettings
from trainer.signals import Interrupted
from trainer.state import RunState
from trainer.stream import BatchStream
from trainer.totals import Together


@dataclass(slots=True, kw_only=True, eq=False)
class Loop:
    """One run's loop, made of its parts."""

    model: Model
    optimizer: DenseOptimizer
    schedule: Schedule
    settings: TrainSettings
    steps_per_epoch: int
    checkpoint_every: int
    state: RunState
    journal: Journal | NoJournal
    progress: Progress
    open_epoch: Callable[[int, int], BatchStream]
    """(epoch, step) -> the batches of that epoch from that step on."""
    validate: Callable[[], Metrics] | None
    """Raises Interrupted where a stop is requested meanwhile; None without validation data."""
    save: Callable[[bool], None]
    """Writes a checkpoint of the state as it is; True marks the best so far."""
    together: Together
    saved_step: int | None = None
    """The step the newest checkpoint holds."""
    _meter: Meter = field(default_factory=Meter)
    _stream: BatchStream | None = None
    _runs: Sequence[tuple[int, int]] = ()
    _mark: float = 0.0

    def run(self) -> int | None:
        """Trains to the end and saves; returns None, or the signal that asked to stop earlier."""
        self._mark = time.monotonic()
        self.model.tower.train()
        with ExitStack() as stack:
            stack.callback(self._close_stream)
            self._begin_training()
            while True:
                try:
                    is_best = self._is_validation_due() and self._validate()
                except Interrupted:
                    is_best = False
                signal = self.together.signal
                is_over = self._is_over()
                if is_best or self._is_save_due(is_over or signal is not None):
                    self._save(is_best)
                if is_over and not self._is_validation_due():
                    return None
                if signal is not None:
                    return signal
                self._train(self._next_batch())

    def _is_over(self) -> bool:
        return self.state.step >= self.schedule.total_steps or self.state.is_stopped_early

    def _is_validation_due(self) -> bool:
        state, every = self.state, self.settings.valid_every
        if self.validate is None or state.validated_step == state.step:
            return False
        is_due = state.epoch_step == 0 if every is None else state.step % every == 0
        return is_due or self._is_over()

    def _is_save_due(self, is_last: bool) -> bool:
        step = self.state.step
        if step in (0, self.saved_step):
            return False
        return is_last or step % self.checkpoint_every == 0

    def _validate(self) -> bool:
        assert self.validate is not None  # noqa: S101 it is not due without
        metrics = self.validate()
        is_best = self.state.validated(metrics, self.settings)
        self._clock()
        self.journal.write(
            "valid",
            self.state.step,
            {
                **self._place(),
                **metrics.headline(),
                "is_best": is_best,
                "elapsed_s": round(self.state.elapsed_s, 3),
            },
        )
        self.progress.validated(self.state.step, metrics, is_best)
        self._begin_training()
        return is_best

    def _save(self, is_best: bool) -> None:
        self._clock()
        started = time.monotonic()
        self.state.journal_offset = self.journal.sync()
        self.save(is_best)
        self.saved_step = self.state.step
        self.progress.saved(self.state.step, time.monotonic() - started)

    def _train(self, batch: KeyBatch) -> None:
        state, model = self.state, self.model
        assert batch.label is not None  # noqa: S101 the feature set names the label
        factor = self.schedule.factor(state.step)
        self.optimizer.learning_rate = self.settings.learning_rate * factor
        model.engine.learning_rate = model.engine.settings.learning_rate * factor
        model.tower.seed_dropout(self.settings.seed, state.step, self._runs)

        label = model.tensor(batch.label)
        weight = None if batch.weight is None else model.tensor(batch.weight)
        total = float(batch.num_rows if weight is None else weight.sum(dtype=torch.float64))
        logits = model.logits(model.route(batch), batch.dense)
        summed = binary_cross_entropy(logits, label, weight, total=1.0)
        # Here and not later: the backward pass is what writes the table.
        totals = self.together.totals(summed.item(), total, batch.num_rows)
        value = totals.loss / (totals.weight or 1.0)
        if not math.isfinite(value):
            raise self._diverged(value)
        self.optimizer.zero_grad()
        (summed / (totals.weight or 1.0)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

        state.step += 1
        state.epoch_step += 1
        state.samples += totals.rows
        state.loss_sum += totals.loss
        state.loss_weight += totals.weight
        if state.epoch_step == self.steps_per_epoch:
            state.epoch += 1
            state.epoch_step = 0
        self._meter.add(logits.detach().cpu().numpy(), batch.label, value)
        self._report()

    def _report(self) -> None:
        state = self.state
        total_steps = self.schedule.total_steps
        report = self._meter.report(state.step, total_steps, state.epoch, state.samples)
        if report is not None:
            self.progress.trained(report)
        if state.step % self.settings.log_every and state.step != total_steps:
            return
        self._clock()
        mean = state.loss_sum / state.loss_weight if state.loss_weight else 0.0
        self.journal.write(
            "train",
            state.step,
            {
                **self._place(),
                "loss": mean,
                "learning_rate": self.optimizer.learning_rate,
                "table_learning_rate": self.model.engine.learning_rate,
                "samples_per_s": round(self._meter.rate(state.samples), 1),
                "elapsed_s": round(state.elapsed_s, 3),
            },
        )
        state.loss_sum = state.loss_weight = 0.0

    def _place(self) -> dict[str, int]:
        return {"epoch": self.state.epoch, "samples": self.state.samples}

    def _begin_training(self) -> None:
        self.progress.stage("train", self.schedule.total_steps)
        self._meter.restart(self.state.step, self.state.samples)

    def _next_batch(self) -> KeyBatch:
        state = self.state
        if self._stream is None or state.epoch_step == 0:
            self._close_stream()
            self._stream = self.open_epoch(state.epoch, state.epoch_step)
        self._runs = self._stream.runs(self._stream.step)
        return next(self._stream)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _clock(self) -> None:
        now = time.monotonic()
        self.state.elapsed_s += now - self._mark
        self._mark = now

    def _diverged(self, loss: float) -> TrainingError:
        state = self.state
        kept = (
            "no checkpoint was written yet"
            if self.saved_step is None
            else f"the checkpoint of step {self.saved_step} is kept"
        )
        return TrainingError(
            f"the loss is {loss} at step {state.step} (epoch {state.epoch}, step "
            f"{state.epoch_step} of it); nothing of that step was applied, and {kept}",
            "lower train.learning_rate or table.learning_rate, add train.warmup_steps or "
            "train.clip_norm, or look for extreme values in the dense columns",
        )
