"""A page about a trained table, of runs, of checkpoints of several ranks and of versions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.launch.command import ROOT, Finished, muxtable
from tests.trainer.clicks import write_clicks

JOB = """
[data]
train = "train"
valid = "valid"
label = "click"
[features]
categorical = ["user", "item"]
list = ["tags"]
dense = ["price"]
[table]
rows = 60
width = 4
lookups = 2
exact_below = 20
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
    """Returns a folder with a click log and its finished run, by two ranks."""
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    (path / "job.toml").write_text(JOB)
    trained = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "muxtable", "train", str(path / "job.toml")),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    return path


def report(*arguments: object) -> Finished:
    return muxtable("inspect", *arguments, "--json")


def test_a_run_is_reported_on_with_all_its_figures(folder, tmp_path) -> None:
    done = report(folder / "run", "--report", tmp_path / "page.html")

    assert done.code == 0, done.err
    document = done.document
    assert document["report"] == str(tmp_path / "page.html")
    assert [each["feature"] for each in document["collisions"]] == ["user", "item"]
    assert document["apart"] == ["tags"]
    assert document["data_rows"] == 2000
    valid = json.loads((folder / "run/result.json").read_text())["metrics"]["valid"]
    assert document["worth"]["auc"] == pytest.approx(valid["auc"], abs=1e-6)
    assert document["gradient_angles"]["num_pairs"] == 6
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Who shares a row" in page


def test_a_checkpoint_and_its_version_have_the_same_collisions_and_no_worth(
    folder, tmp_path
) -> None:
    exported = muxtable("export", folder / "run", "--out", tmp_path / "versions", "--json")
    assert exported.code == 0, exported.err
    checkpoint = next((folder / "run/checkpoints").glob("step-*"))
    version = tmp_path / "versions" / exported.document["version"]
    page = tmp_path / "page.html"
    of_run = report(folder / "run", "--report", page, "--data", folder / "train").document

    of_checkpoint = report(checkpoint, "--report", page, "--data", folder / "train")
    of_version = report(version, "--report", page, "--data", folder / "train")

    for done in (of_checkpoint, of_version):
        assert done.code == 0, done.err
        assert done.document["collisions"] == of_run["collisions"]
        assert "missing" in done.document["worth"]
    same = of_checkpoint.document["layer_angles"]
    assert same == of_run["layer_angles"]
    assert "missing" in of_version.document["layer_angles"]
    norms = [each.document["norms"]["mean_squared"] for each in (of_checkpoint, of_version)]
    assert norms == pytest.approx([of_run["norms"]["mean_squared"]] * 2, rel=0.02)


def test_rows_without_labels_tell_everything_but_the_worth(folder, tmp_path) -> None:
    rows = pq.read_table(folder / "valid").drop_columns(["click"])
    pq.write_table(rows, tmp_path / "new.parquet")
    page = tmp_path / "page.html"

    done = report(folder / "run", "--report", page, "--data", tmp_path / "new.parquet")

    assert done.code == 0, done.err
    assert done.document["data_rows"] == 600
    assert "no column" in done.document["worth"]["missing"]
    assert done.document["collisions"][0]["reads"] == 600


def test_a_person_gets_a_table_of_the_features(folder, tmp_path) -> None:
    page = tmp_path / "page.html"

    done = muxtable("inspect", folder / "run", "--report", page, "--rows", 500)

    assert done.code == 0, done.err
    for word in ("user", "item", "AUC lost without it", str(page)):
        assert word in done.out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "--report", "missing/page.html"], "no file that could be written"),
        (["run", "--data", "train"], "--report"),
        (["run", "--report", "page.html", "--data", "nowhere.parquet"], "nowhere.parquet"),
        (["run", "--report", "page.html", "--checkpoint", "77777"], "77777"),
        (["run/checkpoints/STEP", "--report", "page.html"], "--data"),
        (["train", "--report", "page.html"], "no run"),
    ],
)
def test_mistakes_are_told_and_write_nothing(folder, arguments, word) -> None:
    step = next((folder / "run/checkpoints").glob("step-*")).name
    before = sorted(folder.iterdir())

    done = muxtable("inspect", *(each.replace("STEP", step) for each in arguments), cwd=folder)

    assert done.code == 2
    assert word in done.err
    assert "Traceback" not in done.err
    assert sorted(folder.iterdir()) == before
