"""The grid trains what is not done yet, keeps it, and never trains it again."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import grid
from benchmarks.grid import Point, Store

JOB = """
[data]
train = "train.parquet"
valid = "test.parquet"
test = "test.parquet"
label = "click"
[features]
categorical = ["user", "item"]
[table]
budget = "8 kB"
exact_below = 0
[train]
batch_size = 256
epochs = 1
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small job, and results kept in a folder of its own."""
    random = np.random.default_rng(0)
    for part, rows in (("train", 2048), ("test", 512)):
        user, item = random.integers(0, 40, rows), random.integers(0, 60, rows)
        click = ((user + item) % 3 == 0).astype(np.int8)
        table = pa.table({"user": user, "item": item, "click": click})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.setattr(grid, "RESULTS", tmp_path / "results")
    return str(tmp_path / "job.toml")


def point(job, seed=0, **settings):
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Point(job=job, settings=grid.settings_of(named), seed=seed)


def test_a_point_is_known_by_everything_that_decides_it(job):
    base = point(job, table__width=8)

    others = [
        point(job, table__width=16),
        point(job, seed=1, table__width=8),
        Point(job=job, settings=base.settings, seed=0, hash_seed=5),
        Point(job=job, settings=base.settings, seed=0, also=(("more", "more.parquet"),)),
    ]

    assert len({each.digest for each in [base, *others]}) == 5
    assert base.digest == point(job, table__width=8).digest


def test_comments_of_the_job_file_decide_nothing(job):
    before = point(job).digest

    Path(job).write_text("# said better\n" + JOB)
    after = point(job).digest
    Path(job).write_text(JOB.replace("256", "512"))

    assert after == before
    assert point(job).digest != before


@pytest.mark.timeout(120)
def test_finished_points_are_not_trained_again(job, capsys):
    points = [point(job, table__width=4)]
    first = grid.run("small", points, processes=1)
    lines = Store("small").path.read_text()

    second = grid.run("small", points, processes=1)

    outcome = first[points[0].digest]
    assert second == first
    assert Store("small").path.read_text() == lines
    assert "1 points done, 0 left" in capsys.readouterr().err
    assert 0.4 < outcome["auc"] <= 1
    assert outcome["bytes"] <= 8000
    assert outcome["table.width"] == 4


@pytest.mark.timeout(120)
def test_a_point_is_what_the_command_gives_and_is_measured_on_more_files(job, tmp_path):
    also = (("again", str(tmp_path / "test.parquet")),)
    one = Point(job=job, settings=(("table.width", 4),), seed=3, also=also)

    outcome = grid.train(one, tmp_path / "runs")
    command = [sys.executable, "-m", "muxtable", "train", job, "--json"]
    for override in ("table.width=4", "train.seed=3", "table.hash_seed=3", "train.threads=1"):
        command += ["--set", override]
    command += ["--set", f"run.dir={json.dumps(str(tmp_path / 'own'))}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=grid.ROOT)

    assert outcome["auc"] == json.loads(done.stdout)["metrics"]["test"]["auc"]
    assert outcome["auc_again"] == outcome["auc"]
    assert not any((tmp_path / "runs").iterdir())


def test_a_budget_that_a_method_cannot_live_on_is_an_outcome(job):
    tiny = point(job, table__method="dhe", table__budget="400 B", table__width=4)

    outcomes = grid.run("small", [tiny], processes=1)

    assert "need at least" in outcomes[tiny.digest]["infeasible"]
    assert grid.summary(outcomes.values())["seeds"] == 0


def test_a_mistake_in_the_settings_stops_the_grid(job):
    with pytest.raises(RuntimeError, match="widht"):
        grid.run("small", [point(job, table__widht=4)], processes=1)

    assert Store("small").outcomes() == {}


def write_many(path, first):
    code = (
        "import sys; from pathlib import Path; from benchmarks import grid\n"
        "grid.RESULTS = Path(sys.argv[1]).parent\n"
        "for i in range(int(sys.argv[3]), int(sys.argv[3]) + 50):\n"
        "    p = grid.Point(job=sys.argv[2], settings=(), seed=i)\n"
        "    grid.Store('many').add(p, {'auc': 0.5, 'filler': 'x' * 3000})\n"
    )
    command = [sys.executable, "-c", code, str(path / "many.jsonl"), str(path / "job.toml"), first]
    return subprocess.Popen(command, cwd=grid.ROOT)


def test_several_processes_write_to_one_file(job, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "RESULTS", tmp_path)

    writers = [write_many(tmp_path, str(first)) for first in (0, 50, 100)]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(Store("many").outcomes()) == 150


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_grid_that_is_killed_goes_on_where_it_was(job, tmp_path):
    code = (
        "import sys; from pathlib import Path; from benchmarks import grid\n"
        "grid.RESULTS = Path(sys.argv[1])\n"
        "points = [grid.Point(job=sys.argv[2], settings=(), seed=i) for i in range(4)]\n"
        "print(len(grid.run('killed', points, 1)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "results"), job]
    first = subprocess.Popen(command, cwd=grid.ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(Store("killed").outcomes()) < 2:
        assert time.monotonic() < deadline, "two points take no two minutes"
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = Store("killed").outcomes()

    done = subprocess.run(command, cwd=grid.ROOT, capture_output=True, text=True, check=True)

    after = Store("killed").outcomes()
    assert done.stdout == "4\n"
    assert len(kept) < 4
    assert {digest: after[digest] for digest in kept} == kept


def test_a_summary_has_mean_and_spread_over_seeds():
    aucs = [0.81, 0.83, 0.82]
    outcomes = [{"auc": auc, "log_loss": 0.4, "bytes": 100, "seconds": 3} for auc in aucs]

    found = grid.summary(outcomes)

    assert found["seeds"] == 3
    assert found["auc"] == pytest.approx(0.82)
    assert found["auc_std"] == pytest.approx(statistics.stdev(aucs))


def test_a_difference_has_the_p_of_welch():
    from scipy.stats import ttest_ind

    first, second = [0.882, 0.881, 0.884], [0.875, 0.873, 0.878]

    found = grid.difference(first, second)

    expected = ttest_ind(first, second, equal_var=False).pvalue
    assert found["gain"] == pytest.approx(0.007)
    assert found["p"] == pytest.approx(expected, rel=1e-9)
