"""A job file that is edited, and data that goes on: what the commands say and do."""

import json
import logging
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.parquet import open_dataset
from launch.converters.movielens import read_movielens
from launch.demo.flights import read_flights
from launch.settings import load_job
from tests.e2e.test_resize import JOB
from tests.launch.command import ROOT, muxtable
from tests.trainer.clicks import write_clicks
from trainer.evaluate import evaluate, load_model
from trainer.run import Run
from trainer.train import train

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evolve")
    write_clicks(folder, train=1000, valid=300, test=300)
    (folder / "job.toml").write_text(JOB)
    old = JOB.replace('categorical = ["user", "item"]', 'categorical = ["user"]')
    (folder / "old.toml").write_text(old.replace("out/run", "old"))
    done = muxtable("train", "old.toml", "--json", cwd=folder, timeout_s=200)
    assert done.code == 0, done.err
    return folder


def test_a_plan_says_what_becomes_of_each_feature_and_training_does_it(trained):
    done = muxtable("plan", "job.toml", "--against", "old", "--json", cwd=trained, timeout_s=200)

    assert done.code == 0, done.err
    against = done.document["against"]
    assert {each["name"]: each["outcome"] for each in against["features"]} == {
        "user": "keeps",
        "item": "cold",
        "tags": "keeps",
        "price": "keeps",
    }
    assert against["tower"] is None
    assert done.document["rows"] == 300

    done = muxtable("train", "job.toml", "--from", "old", "--json", cwd=trained, timeout_s=200)
    assert done.code == 0, done.err
    assert "carrying on from step 10" in done.err
    assert "the tower is carried over" in done.err
    metrics = json.loads((trained / "old" / "result.json").read_text())["metrics"]
    assert done.document["metrics"]["test"]["auc"] > metrics["test"]["auc"]
    # The same line again goes on with that run.
    again = muxtable("train", "job.toml", "--from", "old", "--json", cwd=trained, timeout_s=200)
    assert again.document == done.document


def test_a_plan_for_a_person_has_a_line_for_each_feature(trained):
    done = muxtable("plan", "job.toml", "--against", "old", cwd=trained, timeout_s=200)

    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "item starts cold the shared region" in lines
    assert "tags keeps its rows exact rows (22)" in lines
    assert "tower is carried over" in lines


@pytest.mark.parametrize("command", ["plan", "train"])
def test_an_edit_that_breaks_old_rows_ends_with_2(trained, command):
    flag = "--against" if command == "plan" else "--from"
    edits = ("--set", "table.width=8", "--set", "run.dir=broken")

    done = muxtable(command, "job.toml", flag, "old", *edits, cwd=trained, timeout_s=200)

    assert done.code == 2
    assert "table.width was 4, is 8" in (done.out if command == "plan" else done.err)
    assert not (trained / "broken").exists()


def test_a_parent_that_is_none_ends_with_2(trained):
    done = muxtable("plan", "job.toml", "--against", "nowhere", cwd=trained, timeout_s=200)

    assert done.code == 2
    assert "neither a run nor a checkpoint" in done.err


FLIGHTS = """
[data]
train = "part-0.parquet"
label = "late"
[features]
categorical = ["weekday", "hour", "carrier", "flight", "origin", "dest", "tailnum"]
dense = ["departure_minute", "temp", "visib", "rain_6h", "leg"]
[features.cross]
route = ["origin", "dest"]
"""
RATINGS = """
[data]
train = "part-0.parquet"
label = "label"
[features]
categorical = ["user_id", "movie_id", "gender", "age", "occupation", "zip", "year"]
list = ["genres"]
"""
TRAINING = """
[table]
budget = "128 KiB"
width = 8
[tower]
hidden = [32]
[train]
batch_size = 256
threads = 1
[run]
tensorboard = false
"""


def weeks_of_flights() -> list[pa.Table]:
    flights = read_flights().table
    days = flights["date"].combine_chunks().cast(pa.int32()).to_numpy()
    week = (days - (date(2013, 1, 1) - date(1970, 1, 1)).days) // 7
    return [flights.filter(week == number) for number in range(11)]


def ratings_by_time() -> list[pa.Table]:
    source = ROOT.parent / "shared" / "data" / "ml-100k"
    if not source.exists():
        pytest.skip("needs ../shared/data/ml-100k")
    table = read_movielens(source, [], 4, by_time=True).table
    length = table.num_rows // 11
    return [table.slice(number * length, length) for number in range(11)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "features"), [(weeks_of_flights, FLIGHTS), (ratings_by_time, RATINGS)]
)
def test_ten_increments_follow_each_other_without_an_edit(tmp_path, parts, features):
    for number, part in enumerate(parts()):
        pq.write_table(part, tmp_path / f"part-{number}.parquet")
    path = tmp_path / "job.toml"
    path.write_text(features + TRAINING)

    layouts, parent = [], None
    for number in range(10):
        words = [f'data.train="part-{number}.parquet"', f'run.dir="runs/{number}"']
        job = load_job(path, [*words, *([f'run.parent="{parent}"'] if parent else [])])
        result = train(job, tmp_path / "runs" / str(number), tmp_path)
        parent = f"runs/{number}"
        layouts.append(load_model(result.run).model.layout.to_json())

    assert all(layout == layouts[0] for layout in layouts)
    # On what comes after them ten know more than the first.
    first, last = (_auc(tmp_path, number) for number in (0, 9))
    logger.info("AUC after the first %.4f, after ten %.4f", first, last)
    assert last > first


def _auc(folder: Path, number: int) -> float:
    trained = load_model(Run.open(folder / "runs" / str(number)))
    metrics = evaluate(
        trained.model,
        open_dataset("part-10.parquet", folder),
        trained.feature_set,
        trained.profile,
        scratch=folder,
        buffer=1 << 20,
    )
    assert metrics.auc is not None
    return metrics.auc
