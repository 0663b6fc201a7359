"""Runs whose checkpoints are deltas, or lie in an object store, or both: the same run comes out."""

import json
from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError
from storage.chain import open_checkpoint
from storage.objects import ObjectStore
from storage.places import ObjectPath
from tests.launch.command import muxtable
from tests.ranks import run_ranks
from tests.storage.s3 import s3_server
from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.latest import checkpoint_places
from trainer.run import Run
from trainer.train import train

TABLE = {"rows": 20_000, "width": 4}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


@pytest.fixture(scope="module")
def whole(clicks) -> dict[str, np.ndarray]:
    return tensors(train(clicks_job(table=TABLE), clicks / "whole", clicks).run)


def tensors(run: Run) -> dict[str, np.ndarray]:
    with saving.open_checkpoint(run.checkpoints, "last") as checkpoint:
        return {name: np.array(checkpoint.tensor(name)) for name in checkpoint.tensor_names}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    assert [n for n, array in ours.items() if not np.array_equal(array, theirs[n])] == []


def bases(run: Run) -> list[str | None]:
    """Returns what each checkpoint is a delta on."""
    found = []
    for place in checkpoint_places(run.checkpoints):
        with open_checkpoint(place, verify=False) as checkpoint:
            found.append(checkpoint.base.place.name if checkpoint.base else None)
    return found


def stopping(every: int):
    """Asks to stop each `every` looks, as long as it is asked."""
    looks = 0

    def stop() -> int | None:
        nonlocal looks
        looks += 1
        return 15 if looks >= every else None

    return stop


def train_in_pieces(job, folder: Path, base: Path) -> Run:
    """Trains a run that is stopped and resumed three times."""
    for _ in range(3):
        assert train(job, folder, base, stop_requested=stopping(20)).signal == 15
    return train(job, folder, base).run


def test_a_run_of_deltas_that_is_stopped_and_resumed_is_the_run_without_them(
    clicks, whole, tmp_path
):
    job = clicks_job(table=TABLE, run={"deltas": 4, "keep": 99})

    run = train_in_pieces(job, tmp_path / "run", clicks)

    assert_same(tensors(run), whole)
    found = bases(run)
    assert found[0] is None
    assert len([base for base in found if base is not None]) >= 4
    assert len([base for base in found if base is None]) >= 2


def test_damage_to_a_base_is_told_by_its_file_and_what_stands_on_it(clicks, tmp_path):
    job = clicks_job(table=TABLE, run={"deltas": 99, "keep": 1}, train={"max_steps": 20})
    run = train(job, tmp_path / "run", clicks).run
    base = next(name for name in bases(run) if name is not None)
    file = next((run.path / "checkpoints" / base).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)

    with pytest.raises(SnapshotError, match=rf"only what changed since .{base}.*{file.name}"):
        saving.open_checkpoint(run.checkpoints, "last")


def train_ranks(ranks, folder: Path, base: Path, steps: int) -> None:
    job = clicks_job(
        table=TABLE, run={"deltas": 9, "keep": 99}, train={"max_steps": steps}, data={"streams": 4}
    )
    train(job, folder, base, ranks=ranks)


def test_ranks_write_deltas_that_one_process_reads(clicks, tmp_path):
    run_ranks(3, train_ranks, tmp_path / "run", clicks, 35)

    run = Run.open(tmp_path / "run")
    found = bases(run)
    assert found[0] is None
    assert set(found[1:]) == {"step-0000000010"}
    ours = tensors(run)
    whole = clicks_job(table=TABLE, train={"max_steps": 35}, data={"streams": 4})
    alone = tensors(train(whole, tmp_path / "alone", clicks).run)
    np.testing.assert_allclose(ours["table.weight"], alone["table.weight"], atol=1e-5)


def test_a_run_with_its_checkpoints_in_an_object_store_is_the_run_with_a_folder(
    clicks, whole, tmp_path
):
    with s3_server():
        place = "s3://bucket/runs/clicks"
        job = clicks_job(table=TABLE, run={"checkpoints": place, "deltas": 2})

        run = train_in_pieces(job, tmp_path / "run", clicks)

        assert_same(tensors(run), whole)
        assert run.checkpoints == ObjectPath("bucket", "runs/clicks")
        assert not (run.path / "checkpoints").exists()
        names = ObjectStore.at_hand().folders(run.checkpoints)
        assert 3 <= len(names) <= 6
        told = muxtable("--json", "inspect", run.path)
        assert told.code == 0, told.err
        listed = [Path(each["path"]).name for each in told.document["checkpoints"]]
        assert listed == names
        told = muxtable("--json", "eval", run.path)
        assert told.code == 0, told.err
        result = json.loads((run.path / "result.json").read_text())
        assert json.dumps(result["metrics"]["test"]["auc"])[:9] in told.out
