"""One trained run and what every other command says of it, each in a process of its own."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from launch.demo.job import demo_job
from storage.bundle import open_bundle
from tests.launch.command import ROOT, muxtable
from tests.trainer.clicks import write_clicks

JOB = """
[data]
train = "train"
valid = "valid"
test = "test"
label = "click"
[features]
categorical = ["user", "item"]
list = ["tags"]
dense = ["price"]
[table]
rows = 300
width = 4
exact_below = 40
[tower]
hidden = [8]
[train]
batch_size = 200
threads = 1
[run]
dir = "run"
tensorboard = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a click log, a job and its finished run."""
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    (path / "job.toml").write_text(JOB)
    trained = muxtable("train", path / "job.toml", "--json")
    assert trained.code == 0, trained.err
    return path


def result(folder: Path) -> dict:
    return json.loads((folder / "run/result.json").read_text())


def test_eval_says_what_training_measured(folder) -> None:
    measured = result(folder)["metrics"]["test"]

    evaluated = muxtable("eval", folder / "run", "--json")

    assert evaluated.code == 0, evaluated.err
    assert {key: evaluated.document[key] for key in measured} == measured


def test_scores_stand_beside_their_rows_and_give_the_measured_auc(folder, tmp_path) -> None:
    truth = pq.read_table(folder / "test")

    predicted = muxtable(
        "predict", folder / "run", folder / "test", "--out", tmp_path / "out", "--keep", "user"
    )

    assert predicted.code == 0, predicted.err
    files = [f"{number}.parquet" for number in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    scored = pa.concat_tables([pq.read_table(tmp_path / "out" / name) for name in files])
    assert scored["user"].to_pylist() == truth["user"].to_pylist()
    auc = roc_auc_score(truth["click"].to_numpy(), scored["score"].to_numpy())
    assert auc == pytest.approx(result(folder)["metrics"]["test"]["auc"], abs=1e-6)


def test_predictions_need_no_labels(folder, tmp_path) -> None:
    rows = pq.read_table(folder / "test").drop_columns(["click", "weight"])
    pq.write_table(rows, tmp_path / "new.parquet")

    predicted = muxtable("predict", folder / "run", tmp_path / "new.parquet", "--out", tmp_path)

    assert predicted.code == 2  # the output would replace the input
    assert pq.read_table(tmp_path / "new.parquet").equals(rows)
    predicted = muxtable(
        "predict", folder / "run", tmp_path / "new.parquet", "--out", tmp_path / "out"
    )
    assert predicted.code == 0, predicted.err
    assert pq.read_table(tmp_path / "out/new.parquet").column_names == ["score"]


def test_lookup_gives_the_rows_of_the_hash_command_and_the_trained_vector(folder) -> None:
    checkpoint = next((folder / "run/checkpoints").glob("step-*"))
    with open_bundle(checkpoint) as bundle:
        table = np.array(bundle.tensor("table.weight"))
        regions = {each["name"]: each for each in bundle.content["layout"]["regions"]}

    found = muxtable("lookup", folder / "run", "user", "7", "--data", folder / "train", "--json")

    assert found.code == 0, found.err
    document = found.document
    shared = regions[document["region"]]
    size = ("--rows", shared["rows"], "--base", shared["base"], "--lookups", 2)
    hashed = muxtable("hash", "user", "7", "--type", "int", *size, "--json")
    assert hashed.document["rows"] == [document["rows"]]
    assert document["vector"] == [float(x) for x in table[document["rows"]].ravel()]
    users = pq.read_table(folder / "train")["user"].to_numpy()
    assert document["seen"] == int((users == 7).sum())


@pytest.mark.parametrize(
    ("words", "seen"), [(["item-3"], True), (["never"], False), (["--null"], None)]
)
def test_lookup_says_whether_training_saw_an_exact_value(folder, words, seen) -> None:
    found = muxtable("lookup", folder / "run", "item", *words, "--json")

    assert found.code == 0, found.err
    assert found.document["seen_in_training"] is seen


def test_inspect_verifies_the_run(folder) -> None:
    seen = muxtable("inspect", folder / "run", "--verify", "--json")

    assert seen.code == 0, seen.err
    assert seen.document["finished"] is True
    assert seen.document["result"]["metrics"] == result(folder)["metrics"]


def test_plan_foretells_the_table_and_the_tower_that_were_trained(folder) -> None:
    planned = muxtable("plan", folder / "job.toml", "--json")

    assert planned.code == 0, planned.err
    trained = result(folder)
    table = trained["table"]
    assert planned.document["tower_parameters"] == trained["tower_parameters"]
    assert planned.document["rows"] == table["rows"]
    assert planned.document["parameter_bytes"] == table["parameter_bytes"]


def test_the_flights_example_is_the_demos_job() -> None:
    example = (ROOT / "examples/flights/job.toml").read_text()

    assert example.endswith(demo_job("../../data/flights/days", "runs/job"))
    assert example.partition("[data]")[0].count("\n#") >= 5
