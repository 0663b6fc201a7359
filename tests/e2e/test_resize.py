"""A run that is grown and folded by the command, and trained on."""

import json
from pathlib import Path

import pytest

from tests.launch.command import muxtable
from tests.trainer.clicks import write_clicks

# Each command starts torch; a busy machine takes its time for that.
pytestmark = pytest.mark.timeout(240)

JOB = """
[data]
train = "train"
valid = ["valid/*.parquet"]
test = "test"
label = "click"
[features]
categorical = ["user", "item"]
list = ["tags"]
dense = ["price"]
[table]
rows = 300
width = 4
exact_below = 20
[tower]
hidden = [8]
[train]
batch_size = 100
epochs = 1
threads = 1
[run]
dir = "out/run"
tensorboard = false
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resize")
    write_clicks(folder, train=1000, valid=300, test=300)
    (folder / "job.toml").write_text(JOB)
    done = muxtable("train", "job.toml", "--json", cwd=folder, timeout_s=200)
    assert done.code == 0, done.err
    return folder


def run(folder: Path, *words: object) -> dict:
    done = muxtable(*words, "--json", cwd=folder, timeout_s=200)
    assert done.code == 0, done.err
    return done.document


def test_a_grown_run_is_evaluated_the_same_and_finishes_where_the_old_one_did(trained):
    grown = run(trained, "resize", "out/run", "--times", 4, "--out", "grown")

    assert grown["rows"] == {"before": 300, "after": 4 * 278 + 22}
    assert [region["name"] for region in grown["regions"]] == ["shared", "exact:tags"]
    before = run(trained, "eval", "out/run", "--checkpoint", "last")
    assert {**run(trained, "eval", "grown"), "run": "out/run"} == before
    finished = run(trained, "train", grown["job"])
    assert finished["steps"] == 10
    old = json.loads((trained / "out/run/result.json").read_text())
    new = json.loads((trained / "grown/result.json").read_text())
    assert new["metrics"]["test"] == old["metrics"]["test"]
    assert new["table"]["rows"] == 1134
    assert (trained / "grown/report.html").exists()


def test_a_folded_run_has_the_bytes_of_a_small_one_and_is_carried_on(trained):
    folded = run(trained, "resize", "out/run", "--fold", 2, "--out", "folded")

    assert folded["bytes"] == {"before": 4800, "after": (139 + 22) * 16}
    small = ("--set", "table.rows=161", "--set", "run.dir=small")
    trained_on = run(trained, "train", "job.toml", "--from", "folded", *small)
    assert trained_on["steps"] == 10
    result = json.loads((trained / "small/result.json").read_text())
    assert result["table"]["rows"] == 161


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--out", "x"), "either grows"),
        (("--times", "2", "--fold", "2", "--out", "x"), "either grows"),
        (("--times", "1", "--out", "x"), "--times"),
        (("--times", "2", "--out", "out"), "exists already"),
        (("--times", "2", "--out", "x", "--checkpoint", "7"), "no checkpoint of step 7"),
        (("--fold", "500", "--out", "x"), "fold by less"),
    ],
)
def test_mistakes_end_with_2_and_leave_nothing(trained, words, what):
    done = muxtable("resize", "out/run", *words, cwd=trained, timeout_s=200)

    assert done.code == 2
    assert what in done.err
    assert not (trained / "x").exists()
    assert not list(trained.glob(".*.tmp"))
