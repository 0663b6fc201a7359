"""A sweep of real trainings on a local Ray, killed and stopped on the way."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch.sweep.record import WALL_CLOCK, Record, read_records
from tests.e2e.cluster import Cluster, finish, kill_tree, tree, wait_until
from tests.launch.command import ROOT, Finished, muxtable
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.toml import toml_text

pytestmark = pytest.mark.timeout(400)

JOB = clicks_job(
    table={"rows": 300, "optimizer": "adam"},
    train={"batch_size": 32, "epochs": 6},
    run={"checkpoint_every": 10},
)
GRID = ("--multiplexed", "both", "--lookups", "1,2", "--seeds", "0", "--codec", "int8")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    (path / "job.toml").write_text(toml_text(JOB.model_dump(mode="json", exclude_unset=True)))
    return path


@pytest.fixture(scope="module")
def whole(base) -> Finished:
    """A sweep that nothing happened to."""
    arguments = [base / "job.toml", "--out", base / "whole", *GRID, "--workers", 2, "--json"]
    return muxtable("sweep", *arguments, timeout_s=300)


def start(base: Path, out: Path) -> subprocess.Popen[str]:
    words = ["sweep", base / "job.toml", "--out", out, *GRID, "--workers", 2]
    return subprocess.Popen(
        [sys.executable, "-m", "muxtable", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stored(out: Path) -> dict[str, int]:
    """The points that are finished, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("points/*.parquet")}


def running(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train a point."""
    found = []
    for pid in tree(process.pid):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::run_point"):
            found.append(pid)
    return found


def comparable(path: Path) -> list[Record]:
    unknown = dict.fromkeys(WALL_CLOCK)
    return [replace(record, **unknown) for record in read_records(path)]


def test_a_sweep_ends_with_a_front_and_one_recommendation(base, whole):
    assert whole.code == 0, whole.err
    document = whole.document

    records = read_records(base / "whole/points.parquet")
    assert [(r.multiplexed, r.lookups, r.width, r.codec) for r in records] == [
        (multiplexed, lookups, 8 // lookups, codec)
        for multiplexed in (True, False)
        for lookups in (1, 2)
        for codec in ("float32", "int8")
    ]
    assert {record.status for record in records} == {"done"}
    assert all(record.auc_valid > 0.6 and record.auc_test > 0.6 for record in records)
    assert len(document["settings"]) == 8
    assert len(document["multiplexing"]) == 2
    assert document["recommended"]["setting"] in document["front"]
    assert "multiplexed =" in document["recommended"]["lines"]
    assert Path(document["page"]).read_text().startswith("<!doctype html>")
    assert "4 of 4: " in whole.err
    assert list((base / "whole/unfinished").iterdir()) == []


def test_a_finished_sweep_is_shown_again_without_any_training(base, whole):
    before = stored(base / "whole")

    again = muxtable("sweep", base / "job.toml", "--out", base / "whole", *GRID, timeout_s=50)

    assert again.code == 0, again.err
    assert stored(base / "whole") == before
    assert "points to train" not in again.err
    assert "recommended: " in again.out
    assert "multiplexed or per feature" in again.out


def test_a_sweep_killed_stopped_and_robbed_of_a_worker_gives_the_same_table(base, whole):
    out = base / "killed"

    killed = start(base, out)
    wait_until(lambda: stored(out), 120)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kill_tree(killed)
    first = stored(out)

    stopped = start(base, out)
    wait_until(lambda: running(stopped) or stopped.poll() is not None, 120)
    stopped.send_signal(signal.SIGINT)
    ended = finish(stopped, 120)
    second = stored(out)

    robbed = start(base, out)
    wait_until(lambda: running(robbed) or robbed.poll() is not None, 120)
    for pid in running(robbed)[:1]:
        os.kill(pid, signal.SIGKILL)
    done = finish(robbed, 240)

    assert ended.code == 130, ended.err
    assert f"stopped: {len(second)} of 4 points are stored" in ended.err
    assert "the same command goes on with the others" in ended.err
    assert done.code == 0, done.err
    assert "trying that point again, attempt 2 of 3" in done.err
    assert first.items() <= second.items() <= stored(out).items()
    assert comparable(out / "points.parquet") == comparable(base / "whole/points.parquet")
    assert list((out / "unfinished").iterdir()) == []


def test_a_mistake_of_the_job_ends_the_sweep_before_anything_is_written(base, tmp_path):
    out = tmp_path / "out"

    wrong = muxtable(
        "sweep", base / "job.toml", "--out", out, "--methods", "robbe", "--json", timeout_s=50
    )
    missing = muxtable("sweep", base / "job.toml", "--out", out, "--set", "data.train=none/*.pq")

    assert (wrong.code, missing.code) == (2, 2)
    assert 'did you mean "robe"?' in wrong.document["error"]["fix"]
    assert "none/*.pq" in missing.err
    assert not out.exists()


@pytest.mark.slow
def test_a_cluster_that_shares_no_folder_gives_the_same_table(base, whole):
    out = base / "cluster"
    words = ["sweep", base / "job.toml", "--out", out, *GRID, "--json"]

    with Cluster(num_cpus=2) as cluster:
        done = cluster.run(*words, "--address", cluster.address, timeout_s=300)

    assert done.code == 0, done.err
    assert "2 at a time, on the Ray cluster at 127.0.0.1:" in done.err
    assert comparable(out / "points.parquet") == comparable(base / "whole/points.parquet")
    assert list((out / "unfinished").iterdir()) == []
