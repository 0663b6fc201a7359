"""Every method from training to the service: stopped and resumed, on two ranks, by the commands."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from features.batches import KeyBatch
from features.columns import table_keys
from launch.cli import run
from sharding.assemble import combine
from tests.ranks import run_ranks
from tests.serving.service import connected
from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.evaluate import load_model
from trainer.job import Job
from trainer.run import Run
from trainer.train import train

METHODS = {
    "hash": {},
    "hash_embedding": {},
    "pq": {},
    "qr": {},
    "hashednet": {},
    "robe": {"block": 3},
    "dhe": {},
    "tt": {"width": 8},
    "exact": {},
    "hot": {"method": "unified", "hot_rows": 0.2},
    "frequent": {"method": "unified", "frequent_values": 20},
    "both": {"method": "pq", "hot_rows": 0.1, "frequent_values": 40},
}


def job_of(name: str) -> Job:
    return clicks_job(table={"method": name, **METHODS[name]})


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


@pytest.fixture(scope="module")
def whole(clicks):
    """Returns the result of a method's run, trained once."""
    return cache(lambda name: train(job_of(name), clicks / name, clicks))


@pytest.fixture(scope="module")
def on_two_ranks(clicks) -> dict[str, float]:
    """Returns the AUC of every method, trained on two ranks."""
    one, other = run_ranks(2, _train_all, clicks, timeout_s=240)
    assert one == other
    return one


def _train_all(ranks, folder: Path) -> dict[str, float]:
    return {
        name: train(job_of(name), folder / f"{name} on two", folder, ranks=ranks)
        .metrics["test"]
        .auc
        for name in METHODS
    }


@pytest.fixture
def muxtable(capsys):
    """Runs a command in this process and returns its document."""

    def call(*words: object) -> dict:
        code = run([*map(str, words), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.out + captured.err
        return json.loads(captured.out)

    return call


def tensors(path: Path) -> dict[str, np.ndarray]:
    with saving.open_checkpoint(path / "checkpoints", "last") as bundle:
        return {name: np.array(bundle.tensor(name)) for name in bundle.tensor_names}


def stop_after(polls: int):
    left = [polls]

    def stop() -> int | None:
        left[0] -= 1
        return 15 if left[0] < 0 else None

    return stop


def trained_vectors(path: Path, table: pa.Table) -> np.ndarray:
    """The embedding of rows as the best model of a run has it."""
    loaded = load_model(Run.open(path))
    model = loaded.model
    layout = model.layout
    keys = table_keys(
        table, loaded.feature_set, "test", edges=layout.edges, key_classes=layout.key_classes
    )
    rows = model.route(KeyBatch(table.num_rows, keys, None, None, np.empty((0, 0), np.float32)))
    with torch.no_grad():
        vectors = model.engine.lookup(rows)
        return (combine(vectors, rows.parts) if rows.parts else vectors).numpy()


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_stopped_ends_the_same_and_every_command_knows_it(
    clicks, tmp_path, muxtable, whole, name
):
    job, path = job_of(name), tmp_path / "run"

    assert train(job, path, clicks, stop_requested=stop_after(40)).signal == 15
    resumed = train(job, path, clicks)

    ours, theirs = tensors(path), tensors(whole(name).run.path)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert resumed.metrics == whole(name).metrics
    assert resumed.metrics["test"].auc > 0.6
    assert muxtable("eval", path)["auc"] == resumed.metrics["test"].auc
    assert muxtable("inspect", path, "--verify")["finished"] is True
    scored = muxtable("predict", path, clicks / "test/0.parquet", "--out", tmp_path / "scored")
    assert scored["rows"] == 300
    rows = pq.read_table(clicks / "train")
    for feature, words in (("user", ["7"]), ("item", ["--null"]), ("tags", ["3"])):
        found = muxtable("lookup", path, feature, *words, "--data", clicks / "train")
        with saving.open_checkpoint(Run.open(path).checkpoints, "best") as bundle:
            route = saving.layout_in(bundle)[feature]
        assert len(found["vector"]) == route.width_total
        if feature == "user":
            assert found["seen"] == int((rows["user"].to_numpy() == 7).sum())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_train_what_one_does(clicks, whole, on_two_ranks, name):
    one = whole(name)

    assert on_two_ranks[name] == pytest.approx(one.metrics["test"].auc, abs=2e-3)
    theirs = tensors(clicks / f"{name} on two")
    for key, array in tensors(one.run.path).items():
        np.testing.assert_allclose(theirs[key], array, atol=5e-3, err_msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_the_service_answers_what_was_trained(clicks, tmp_path, muxtable, whole, name):
    path, versions = whole(name).run.path, tmp_path / "versions"
    rows = pq.read_table(clicks / "test")
    columns = {key: rows[key].combine_chunks() for key in ("user", "item", "tags")}
    expected = trained_vectors(path, rows)

    muxtable("export", path, "--out", versions)
    with connected(versions) as client:
        found = client.lookup(columns)

    if name in ("dhe", "tt"):
        np.testing.assert_allclose(found.matrix(), expected, rtol=1e-6, atol=1e-6)
    else:
        assert found.matrix().tobytes() == expected.tobytes()
    coded = muxtable("export", path, "--out", tmp_path / "coded", "--codec", "int8")
    assert coded["codec"] == "int8"
    with connected(tmp_path / "coded") as client:
        near = client.lookup(columns)
    assert np.abs(near.matrix() - expected).max() < 0.1 * np.abs(expected).max()
