import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.batches import KeyBatch
from features.errors import TrainingError
from features.settings import TableSettings
from storage.bundle import BundleWriter
from storage.chain import open_checkpoint
from tests.trainer.small import TABLE, FakeStream, batch, small_model
from trainer import saving
from trainer.dense_optimizer import DenseOptimizer
from trainer.journal import WALL_CLOCK, Journal, read_journal
from trainer.loop import Loop
from trainer.metrics import Metrics, StreamingMetrics
from trainer.progress import Silent, StepReport
from trainer.schedule import Schedule
from trainer.settings import TrainSettings
from trainer.signals import Interrupted
from trainer.state import RunState
from trainer.totals import Together

STEPS_PER_EPOCH = 10
TOTAL = 3 * STEPS_PER_EPOCH
SETTINGS = TrainSettings(
    epochs=3, log_every=4, learning_rate=0.03, warmup_steps=3, decay="cosine", clip_norm=1.0
)


class KilledError(Exception):
    """The process dies here."""


class Watcher(Silent):
    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.best: list[tuple[int, bool]] = []

    def trained(self, report: StepReport) -> None:
        self.reports.append(report)

    def validated(self, step: int, _metrics: Metrics, is_best: bool) -> None:
        self.best.append((step, is_best))


class Trial:
    """A run in a folder: started, stopped, killed and resumed as often as a test likes."""

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings = SETTINGS,
        table: TableSettings = TABLE,
        checkpoint_every: int = 7,
        with_validation: bool = True,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.table = table
        self.checkpoint_every = checkpoint_every
        self.with_validation = with_validation
        self.watcher = Watcher()
        self.saves: list[tuple[int, bool]] = []
        self.spoil: Callable[[int, KeyBatch], KeyBatch] = lambda _step, good: good
        self.auc: Callable[[int], float | None] | None = None
        self.weighted = False
        self.newest: Path | None = None

    def start(
        self, stop: Callable[[RunState], int | None] = lambda _state: None, *, total: int = TOTAL
    ) -> int | None:
        model = small_model(self.table)
        optimizer = DenseOptimizer(model.tower, self.settings)
        state = RunState()
        if self.newest is not None:
            with open_checkpoint(self.newest) as bundle:
                state = saving.state_in(bundle)
                saving.restore(model, bundle, optimizer)
        self.model, self.optimizer, self.state = model, optimizer, state

        def save(is_best: bool) -> None:
            name = f"save-{len(self.saves)}"
            with BundleWriter(self.folder, name, "checkpoint", "a", None) as writer:
                sharded, tensors = saving.tensors_of(model, optimizer)
                for tensor, rows in sharded.items():
                    writer.add_tensor(tensor, rows.array)
                for tensor, array in tensors.items():
                    writer.add_tensor(tensor, array)
                writer.commit(saving.content_of(model, state, {}))
            self.newest = self.folder / name
            self.saves.append((state.step, is_best))

        def validate() -> Metrics:
            if self.auc is not None:
                return with_auc(self.auc(state.step))
            with StreamingMetrics(self.folder, 1000) as metrics:
                for number in range(5):
                    part = batch(1000, number)
                    metrics.update(model.predict(part), part.label)
                    if stop(state) is not None:
                        raise Interrupted
                return metrics.result()

        trial = self

        class Stream(FakeStream):
            def __next__(self) -> KeyBatch:
                return trial.spoil(state.step, super().__next__())

        path = self.folder / "metrics.jsonl"
        with Journal(path, state.journal_offset, state.step, None) as journal:
            return Loop(
                model=model,
                optimizer=optimizer,
                schedule=Schedule(
                    warmup_steps=self.settings.warmup_steps,
                    decay=self.settings.decay,
                    final=self.settings.final_learning_rate,
                    total_steps=total,
                ),
                settings=self.settings,
                steps_per_epoch=STEPS_PER_EPOCH,
                checkpoint_every=self.checkpoint_every,
                state=state,
                journal=journal,
                progress=self.watcher,
                open_epoch=lambda epoch, step: Stream(epoch, step, STEPS_PER_EPOCH, self.weighted),
                validate=validate if self.with_validation else None,
                save=save,
                together=Together.alone(lambda: stop(state)),
                saved_step=state.step or None,
            ).run()

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        sharded, tensors = saving.tensors_of(self.model, self.optimizer)
        tensors |= {name: rows.array for name, rows in sharded.items()}
        return {name: np.array(array) for name, array in tensors.items()}

    def lines(self) -> list[dict[str, object]]:
        lines = read_journal(self.folder / "metrics.jsonl")
        return [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in lines]

    def counters(self) -> dict[str, object]:
        tree = self.state.to_json()
        del tree["elapsed_s"], tree["journal_offset"]
        return tree


def with_auc(auc: float | None) -> Metrics:
    return Metrics(
        rows=1,
        weight=1.0,
        positive_rate=0.5,
        auc=auc,
        log_loss=0.5,
        normalized_entropy=1.0,
        calibration=1.0,
        curve=(),
    )


def at(step: int) -> Callable[[RunState], int | None]:
    """Asks to stop at a step, and keeps asking."""
    return lambda state: 15 if state.step >= step else None


def killed_at(step: int) -> Callable[[RunState], int | None]:
    def stop(state: RunState) -> int | None:
        if state.step == step:
            raise KilledError
        return None

    return stop


def assert_same(trial: Trial, whole: Trial) -> None:
    ours, theirs = trial.tensors(), whole.tensors()
    assert ours.keys() == theirs.keys()
    different = [name for name, array in ours.items() if not np.array_equal(array, theirs[name])]
    assert different == []
    assert trial.lines() == whole.lines()
    assert trial.counters() == whole.counters()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Trial:
    trial = Trial(tmp_path_factory.mktemp("whole"))
    assert trial.start() is None
    return trial


def test_training_lowers_the_loss_and_covers_every_step(whole) -> None:
    losses = [line["loss"] for line in whole.lines() if line["kind"] == "train"]

    steps = [line["step"] for line in whole.lines() if line["kind"] == "train"]

    assert losses[-1] < losses[0]
    assert steps == [*range(4, TOTAL + 1, 4), TOTAL]
    assert whole.state.samples == 3 * (9 * 16 + 7)
    assert whole.state.epoch == 3
    assert whole.watcher.reports[-1].step == TOTAL
    assert [step for step, _ in whole.watcher.best] == [10, 20, 30]


@pytest.mark.parametrize(
    "stops",
    [(1,), (9,), (10,), (11,), (29,), (3, 5), (2, 4, 6), (10, 11), (4, 4), (13, 20, 21)],
    ids=str,
)
def test_a_stopped_run_ends_as_if_it_had_never_stopped(tmp_path, whole, stops) -> None:
    trial = Trial(tmp_path)

    signals = [trial.start(at(step)) for step in stops]
    last = trial.start()

    assert signals == [15] * len(stops)
    assert last is None
    assert_same(trial, whole)


@pytest.mark.parametrize("step", [1, 6, 7, 8, 10, 14, 19, 20, 29])
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, whole, step) -> None:
    trial = Trial(tmp_path)

    with pytest.raises(KilledError):
        trial.start(killed_at(step))
    lost = trial.lines()
    last = trial.start()

    assert last is None
    assert len(lost) <= len(whole.lines())
    assert_same(trial, whole)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "adam", "sgd"])
@pytest.mark.parametrize("dense", ["adam", "adamw", "adagrad", "sgd"])
def test_every_pair_of_optimizers_resumes_exactly(tmp_path, optimizer, dense) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": dense, "weight_decay": 1e-3})
    table = TABLE.model_copy(update={"optimizer": optimizer})
    trials = [Trial(tmp_path / name, settings, table) for name in ("whole", "parts")]
    for trial in trials:
        trial.folder.mkdir()

    trials[0].start(total=12)
    trials[1].start(at(5), total=12)
    trials[1].start(total=12)

    assert_same(trials[1], trials[0])


def test_a_stop_during_validation_saves_and_validates_after_the_resume(tmp_path, whole) -> None:
    trial = Trial(tmp_path)
    calls = itertools.count()

    def stop(state: RunState) -> int | None:
        # The first call at step 10 comes from inside the validation.
        return 2 if state.step == 10 and next(calls) >= 1 else None

    signal = trial.start(stop)
    validated = trial.state.validated_step
    last = trial.start()

    assert (signal, validated, last) == (2, 0, None)
    assert_same(trial, whole)


def test_checkpoints_are_due_by_steps_by_best_and_at_the_end(tmp_path) -> None:
    trial = Trial(tmp_path)
    trial.auc = lambda step: {10: 0.6, 20: 0.7, 30: 0.65}[step]

    trial.start()

    assert trial.saves == [
        (7, False),
        (10, True),
        (14, False),
        (20, True),
        (21, False),
        (28, False),
        (30, False),
    ]
    assert trial.state.best_step == 20


def test_patience_ends_the_run_after_that_many_worse_validations(tmp_path) -> None:
    settings = SETTINGS.model_copy(update={"patience": 2, "valid_every": 4})
    trial = Trial(tmp_path, settings)
    trial.auc = lambda step: 0.9 if step == 8 else 0.5

    signal = trial.start()
    again = trial.start()

    assert signal is again is None
    assert trial.state.step == 16
    assert trial.state.is_stopped_early
    assert trial.state.best_step == 8
    assert trial.saves[-1] == (16, False)
    assert len(trial.watcher.best) == 4


def test_patience_survives_a_resume(tmp_path) -> None:
    settings = SETTINGS.model_copy(update={"patience": 2, "valid_every": 4})
    trial = Trial(tmp_path, settings)
    trial.auc = lambda step: 0.9 if step == 8 else 0.5

    trial.start(at(13))
    trial.start()

    assert trial.state.step == 16


def test_less_is_better_for_losses(tmp_path) -> None:
    state = RunState(step=5)
    settings = TrainSettings(stop_metric="log_loss")
    low, high = with_auc(0.5), with_auc(0.9)
    low = Metrics.from_json({**low.to_json(), "log_loss": 0.4})

    first, worse = state.validated(low, settings), state.validated(high, settings)

    assert (first, worse) == (True, False)
    assert state.best_metrics == low


def test_a_metric_that_does_not_exist_is_neither_better_nor_stale(tmp_path) -> None:
    settings = SETTINGS.model_copy(update={"patience": 1, "valid_every": 4})
    trial = Trial(tmp_path, settings)
    trial.auc = lambda _step: None

    trial.start()

    assert trial.state.step == TOTAL
    assert trial.state.best_step is None


@pytest.mark.parametrize("column", ["dense", "label"])
def test_a_loss_that_is_not_finite_stops_before_anything_is_written(tmp_path, column) -> None:
    trial = Trial(tmp_path)

    def spoil(step: int, good: KeyBatch) -> KeyBatch:
        if step == 17:
            trial.before = trial.tensors()
            getattr(good, column)[3] = np.nan
        return good

    trial.spoil = spoil

    with pytest.raises(TrainingError, match=r"the loss is nan at step 17 .*checkpoint of step 14"):
        trial.start()

    after = trial.tensors()
    assert all(np.array_equal(array, after[name]) for name, array in trial.before.items())
    assert trial.saves[-1][0] == 14


def test_a_tower_that_is_not_finite_is_never_saved(tmp_path) -> None:
    trial = Trial(tmp_path, checkpoint_every=3, with_validation=False)

    def spoil(step: int, good: KeyBatch) -> KeyBatch:
        if step == 5:
            # As after a gradient that overflowed: the loss was finite, the step is not.
            bias = trial.model.tower.head.bias
            trial.optimizer.step = lambda: bias.data.fill_(float("inf"))
        return good

    trial.spoil = spoil

    with pytest.raises(TrainingError, match=r'parameter "head.bias" is no longer finite'):
        trial.start()

    assert trial.saves == [(3, False)]


def test_both_learning_rates_follow_the_schedule(whole) -> None:
    lines = [line for line in whole.lines() if line["kind"] == "train"]
    schedule = Schedule(warmup_steps=3, decay="cosine", final=0.0, total_steps=TOTAL)

    factors = [schedule.factor(line["step"] - 1) for line in lines]

    assert [line["learning_rate"] for line in lines] == pytest.approx([0.03 * f for f in factors])
    assert [line["table_learning_rate"] for line in lines] == pytest.approx(
        [0.05 * f for f in factors]
    )


def test_weights_scale_gradients_and_the_logged_loss(tmp_path) -> None:
    trials = [Trial(tmp_path / name) for name in ("plain", "weighted")]
    for trial in trials:
        trial.folder.mkdir()
    trials[1].weighted = True

    for trial in trials:
        trial.start(total=4)

    assert trials[0].lines() != trials[1].lines()
    assert trials[1].state.samples == trials[0].state.samples


def test_gradients_of_the_tower_are_clipped_to_the_norm(tmp_path) -> None:
    model = small_model()
    optimizer = DenseOptimizer(model.tower, TrainSettings(clip_norm=1e-3, optimizer="sgd"))
    for parameter in model.tower.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)

    optimizer.step()

    squares = sum(float((p.grad**2).sum()) for p in model.tower.parameters())
    assert squares**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_without_validation_only_steps_and_the_end_save(tmp_path) -> None:
    trial = Trial(tmp_path, with_validation=False)

    trial.start()

    assert trial.saves == [(7, False), (14, False), (21, False), (28, False), (30, False)]
    assert trial.state.best_step is None
