import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import ConfigError, DataError, PlanError, SnapshotError, TrainingError
from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.journal import WALL_CLOCK, read_journal
from trainer.metrics import Metrics
from trainer.progress import Silent, StepReport
from trainer.run import Run, RunDirectory
from trainer.train import Result, train


class Watcher(Silent):
    """Keeps what it is told, and may ask to stop at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.step = 0
        self.stages: list[tuple[str, int | None]] = []
        self.rows: dict[str, int] = {}
        self.notes: list[str] = []
        self.saves: list[int] = []

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append((name, total))

    def evaluated(self, rows: int) -> None:
        name = self.stages[-1][0]
        self.rows[name] = self.rows.get(name, 0) + rows

    def trained(self, report: StepReport) -> None:
        self.step = report.step

    def saved(self, step: int, stall_s: float) -> None:  # noqa: ARG002
        self.saves.append(step)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


@pytest.fixture(scope="module")
def whole(clicks) -> tuple[Result, Watcher]:
    watcher = Watcher()
    return train(clicks_job(), clicks / "whole", clicks, progress=watcher), watcher


def stop_after(polls: int) -> Callable[[], int | None]:
    """Asks to stop from the n-th time on that it is looked at."""
    left = [polls]

    def stop() -> int | None:
        left[0] -= 1
        return 15 if left[0] < 0 else None

    return stop


def tensors(run: Run, which: str | int = "last") -> dict[str, np.ndarray]:
    with saving.open_checkpoint(run.checkpoints, which) as bundle:
        return {name: np.array(bundle.tensor(name)) for name in bundle.tensor_names}


def lines(run: Run) -> list[dict[str, object]]:
    return [
        {key: value for key, value in line.items() if key not in WALL_CLOCK}
        for line in read_journal(run.journal)
    ]


def lasting(run: Run) -> dict[str, object]:
    result = run.result()
    return {key: value for key, value in result.items() if key not in ("time", "memory")}


def assert_same(run: Run, other: Run) -> None:
    for which in ("last", "best"):
        ours, theirs = tensors(run, which), tensors(other, which)
        assert ours.keys() == theirs.keys()
        assert [n for n, array in ours.items() if not np.array_equal(array, theirs[n])] == []
    assert lines(run) == lines(other)
    assert lasting(run) == lasting(other)


def test_a_run_learns_and_writes_down_what_came_out(whole) -> None:
    result, watcher = whole

    document = result.run.result()

    assert result.signal is None
    assert result.step == 64  # two epochs of ceil(2000 / 64) steps
    assert result.metrics["test"].auc > 0.6
    assert result.metrics["test"].rows == 600
    assert document["samples"] == 4000
    assert document["rows"] == {"train": 2000, "valid": 600, "test": 600}
    assert Metrics.from_json(document["metrics"]["test"]) == result.metrics["test"]
    assert document["memory"]["planned_bytes"] > 50e6
    assert document["memory"]["peak_bytes"] > 50e6
    assert document["table"]["rows"] == 300
    assert watcher.stages[0] == ("profile", 2000)
    assert watcher.rows == {"profile": 2000, "valid": 1200, "test": 600}
    assert watcher.saves[-1] == 64


@pytest.mark.parametrize("polls", [1, 12, 33, 36, 66, 68])
def test_a_run_stopped_anywhere_ends_the_same(clicks, tmp_path, whole, polls) -> None:
    path = tmp_path / "run"

    first = train(clicks_job(), path, clicks, stop_requested=stop_after(polls))
    second = train(clicks_job(), path, clicks, stop_requested=stop_after(polls))
    last = train(clicks_job(), path, clicks)

    assert first.signal == 15
    assert second.signal in (15, None)
    assert last.signal is None
    assert_same(last.run, whole[0].run)


def test_a_stop_during_the_profile_leaves_no_folder(clicks, tmp_path) -> None:
    path = tmp_path / "run"

    result = train(clicks_job(), path, clicks, stop_requested=lambda: 2)

    assert (result.signal, result.step) == (2, 0)
    assert not path.exists()


def test_a_finished_run_gives_its_result_and_trains_nothing(clicks, whole) -> None:
    before = (whole[0].run.path / "result.json").read_bytes()
    watcher = Watcher()

    again = train(clicks_job(), whole[0].run.path, clicks, progress=watcher)

    assert again.metrics == whole[0].metrics
    assert again.best_step == whole[0].best_step
    assert "is finished" in watcher.notes[0]
    assert watcher.stages == []
    assert (whole[0].run.path / "result.json").read_bytes() == before


def test_the_best_model_is_the_one_that_is_tested(clicks, tmp_path) -> None:
    job = clicks_job(train={"epochs": 12, "learning_rate": 0.05, "patience": 2})
    result = train(job, tmp_path / "run", clicks)

    journal = [line for line in lines(result.run) if line["kind"] == "valid"]
    best = max(journal, key=lambda line: line["auc"])

    assert result.step < 12 * 32
    assert best["step"] == result.best_step < result.step
    assert result.metrics["valid"].auc == best["auc"]
    assert result.run.result()["stopped_early"]


def test_checkpoints_hold_everything_that_is_needed(whole) -> None:
    run = whole[0].run

    with saving.open_checkpoint(run.checkpoints, "last") as bundle:
        names = {name.split(".")[0] for name in bundle.tensor_names}
        content = bundle.content

    assert {"table", "tower", "optimizer"} < names
    assert content["digests"].keys() == {"job", "data", "profile"}
    assert content["state"]["step"] == 64


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"table": {"rows": 1}}, PlanError),
        ({"features": {"categorical": ["user", "nobody"]}}, DataError),
        ({"features": {"categorical": ["user", "price"], "dense": []}}, DataError),
        ({"data": {"label": "price"}, "features": {"dense": []}}, DataError),
        ({"data": {"valid": "nothing/*.parquet"}}, DataError),
        ({"train": {"device": "cuda"}}, ConfigError),
    ],
    ids=lambda value: str(value),
)
def test_what_cannot_be_trained_leaves_no_folder(clicks, tmp_path, changes, error) -> None:
    path = tmp_path / "run"

    with pytest.raises(error):
        train(clicks_job(**changes), path, clicks)

    assert not path.exists()


def test_strings_where_integers_were_trained_are_refused_before_training(tmp_path) -> None:
    write_clicks(tmp_path, train=300, valid=100, test=100)
    file = tmp_path / "valid" / "0.parquet"
    table = pq.read_table(file)
    column = pa.array([str(value) for value in table["user"].to_pylist()])
    position = table.schema.get_field_index("user")
    for name in ("0.parquet", "1.parquet"):
        pq.write_table(table.set_column(position, "user", column), tmp_path / "valid" / name)

    with pytest.raises(DataError, match="user"):
        train(clicks_job(), tmp_path / "run", tmp_path)

    assert not (tmp_path / "run").exists()


def test_two_trainers_never_share_a_folder(clicks, tmp_path, whole) -> None:
    path = whole[0].run.path
    with RunDirectory(path, clicks_job(), clicks) as directory:
        directory._lock()

        with pytest.raises(TrainingError, match=f'"{path}" is in use'):
            train(clicks_job(), path, clicks)


def test_a_run_without_validation_and_test_keeps_its_last_model(clicks, tmp_path) -> None:
    job = clicks_job(data={"valid": None, "test": None}, train={"max_steps": 13})

    result = train(job, tmp_path / "run", clicks)

    assert (result.step, result.best_step) == (13, 13)
    assert result.metrics == {}


def test_only_the_newest_and_the_best_checkpoints_stay(clicks, tmp_path) -> None:
    job = clicks_job(run={"checkpoint_every": 3, "keep": 2})

    result = train(job, tmp_path / "run", clicks)
    names = sorted(path.name for path in result.run.checkpoints.glob("step-*"))

    kept = {63, 64, result.best_step}
    assert names == [f"step-{step:010d}" for step in sorted(kept)]


def test_a_checkpoint_of_another_profile_is_refused(clicks, tmp_path) -> None:
    path = tmp_path / "run"
    train(clicks_job(), path, clicks, stop_requested=stop_after(20))
    file = path / "profile.json"
    tree = json.loads(file.read_text())
    tree["weight_sum"] += 1

    file.write_text(json.dumps(tree, sort_keys=True, separators=(",", ":")))

    with pytest.raises(SnapshotError, match="profile"):
        train(clicks_job(), path, clicks)


def test_tensorboard_events_are_written_where_wanted(clicks, tmp_path) -> None:
    job = clicks_job(run={"tensorboard": True}, train={"max_steps": 6})

    result = train(job, tmp_path / "run", clicks)

    assert list((result.run.path / "tensorboard").glob("events.*"))
