"""A training on the workers of real Ray clusters."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.cluster import Cluster, finish, is_worker, tree, wait_until
from tests.e2e.test_kills import outcome
from tests.launch.command import ROOT, muxtable
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.journal import read_journal
from trainer.run import Run
from trainer.toml import toml_text

pytestmark = pytest.mark.timeout(300)

JOB = clicks_job(
    table={"optimizer": "adam", "learning_rate": 0.01},
    train={"batch_size": 32, "epochs": 8, "valid_every": 200, "log_every": 10},
    run={"checkpoint_every": 20},
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    (path / "job.toml").write_text(toml_text(JOB.model_dump(mode="json", exclude_none=True)))
    return path


@pytest.fixture(scope="module")
def cluster():
    with Cluster(num_cpus=3) as started:
        yield started


def arguments(base: Path, name: str, *more: object) -> list[object]:
    return [base / "job.toml", "--set", f'run.dir="{base / name}"', *more]


@pytest.fixture(scope="module")
def whole(base) -> Run:
    """A run of two ranks that nothing happened to, started by torchrun."""
    done = torchrun(2, "train", *arguments(base, "whole", "--json"))
    assert done.returncode == 0, done.stderr
    return Run.open(base / "whole")


def torchrun(ranks: int, *words: object) -> subprocess.CompletedProcess[str]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "muxtable", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_workers_of_a_local_cluster_train_a_job(base):
    quick = ["--set", "train.epochs=1", "--workers", 2, "--json"]

    done = muxtable("train", *arguments(base, "local", *quick), timeout_s=150)

    assert done.code == 0, done.err
    assert done.document["steps"] == 63
    assert done.document["metrics"]["test"]["auc"] == pytest.approx(0.78, abs=0.05)
    assert "starting a local Ray with 2 workers" in done.err
    assert "step 63: validation AUC" in done.err
    assert Path(done.document["report"]).exists()


@pytest.mark.slow
def test_ray_and_torchrun_give_the_same_bits(base, cluster, whole):
    done = cluster.run(
        "train", *arguments(base, "ray", "--workers", 2, "--address", cluster.address)
    )

    assert done.code == 0, done.err
    assert outcome(Run.open(base / "ray")) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["one worker", "all workers"])
def test_killed_workers_are_made_up_for(base, cluster, whole, victims):
    name = victims.replace(" ", "-")
    process = cluster.start(
        "train", *arguments(base, name, "--workers", 2, "--address", cluster.address)
    )

    wait_until(lambda: last_step(base / name) >= 60)
    workers = cluster.nodes[0].workers()
    assert len(workers) == 2
    for pid in workers[: 1 if victims == "one worker" else 2]:
        os.kill(pid, signal.SIGKILL)
    done = finish(process)

    assert done.code == 0, done.err
    assert "starting again with 2 workers from step" in done.err
    assert "failure 1 of 3 allowed" in done.err
    assert outcome(Run.open(base / name)) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_driver_leaves_a_checkpoint(base, cluster, whole, number, code):
    name = f"signal-{code}"
    words = arguments(base, name, "--workers", 2, "--address", cluster.address)
    process = cluster.start("train", *words)

    wait_until(lambda: last_step(base / name) >= 30)
    process.send_signal(number)
    stopped = finish(process)
    has_ended = (base / name / "result.json").exists()
    done = cluster.run("train", *words)

    assert stopped.code == code, stopped.err
    assert "goes on from there" in stopped.err
    assert not has_ended
    assert done.code == 0, done.err
    assert outcome(Run.open(base / name)) == outcome(whole)


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_the_run_goes_on(base, whole):
    words = arguments(base, "driver", "--workers", 2, "--address", "local")
    with Cluster(num_cpus=1) as environment:
        process = environment.start("train", *words)
        wait_until(lambda: last_step(base / "driver") >= 30)
        workers = [pid for pid in tree(process.pid) if is_worker(pid)]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        wait_until(lambda: not any(is_worker(pid) for pid in workers), 30)
        done = environment.run("train", *words)

    assert len(workers) == 2
    assert done.code == 0, done.err
    assert outcome(Run.open(base / "driver")) == outcome(whole)


@pytest.mark.slow
def test_a_budget_of_no_failures_ends_with_the_first(base, cluster):
    words = ["--workers", 2, "--address", cluster.address, "--set", "run.max_failures=0"]
    process = cluster.start("train", *arguments(base, "budget", *words))

    wait_until(lambda: last_step(base / "budget") >= 30)
    os.kill(cluster.nodes[0].workers()[0], signal.SIGKILL)
    done = finish(process)

    assert done.code == 1
    assert "given up: it is failure 1, and run.max_failures allows 0" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_worker_without_memory_is_said_to_be_one(base):
    # Room for the processes, and not for a table of 8 GiB with Adam's two moments.
    used, total = memory()
    limit = {"RAY_memory_usage_threshold": f"{(used + (5 << 30)) / total:.4f}"}
    with Cluster(2, RAY_memory_monitor_refresh_ms="50", **limit) as small:
        words = ["--workers", 2, "--address", small.address, "--set", "run.max_failures=0"]
        words += ["--set", "table.rows=500_000_000"]

        done = small.run("train", *arguments(base, "memory", *words))

    assert done.code == 1, done.err
    assert "ran out of memory; given up" in done.err
    assert "muxtable plan --workers" in done.err


@pytest.mark.slow
def test_a_mistake_that_only_the_ranks_see_is_told_once_and_not_tried_again(base, cluster):
    words = ["--workers", 2, "--address", cluster.address, "--set", "data.label=bought"]

    done = cluster.run("train", *arguments(base, "mistake", *words))

    assert done.code == 2, done.err
    assert done.err.count("error: ") == 1
    assert "bought" in done.err
    assert "starting again" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_cluster_that_cannot_be_used_is_refused_at_once(base, cluster, tmp_path):
    words = arguments(base, "refused")
    (tmp_path / "wrong").write_text("0" * 64)
    wrong = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}

    few = cluster.run("train", *words, "--workers", 9, "--address", cluster.address)
    token = cluster.run("train", *words, "--workers", 2, "--address", cluster.address, **wrong)
    job_token = cluster.run(
        "submit", *words, "--workers", 2, "--address", cluster.dashboard, **wrong
    )
    nobody = cluster.run("submit", *words, "--workers", 2, "--address", "http://127.0.0.1:9")

    assert [each.code for each in (few, token, job_token, nobody)] == [2, 2, 2, 2]
    assert "--workers 9: the cluster" in few.err
    assert "has room for 3 workers of 1 CPU" in few.err
    assert "refuses our token" in token.err
    assert "refuses our token" in job_token.err
    assert "no job server answers" in nobody.err
    assert not (base / "refused").exists()


@pytest.mark.slow
def test_an_arrow_extension_of_ray_is_refused_and_nothing_is_run(base, cluster, tmp_path):
    canary = tmp_path / "canary"
    write_hostile(base / "train/0.parquet", tmp_path / "0.parquet", "ray.data.arrow_tensor", canary)
    words = ["--workers", 2, "--address", cluster.address, "--set", f'data.train="{tmp_path}"']

    done = cluster.run("train", *arguments(base, "hostile", *words))

    assert done.code == 2, done.err
    assert 'column "extra" has the Arrow extension "ray.data.arrow_tensor"' in done.err
    assert not canary.exists()


@pytest.mark.slow
def test_a_submitted_job_is_followed_to_its_exit_code(base, cluster, whole):
    words = ["--workers", 2, "--address", cluster.dashboard]

    done = cluster.run("submit", *arguments(base, "submitted", *words))
    failed = cluster.run(
        "submit", *arguments(base, "submitted-2", *words), "--set", "data.label=bought", "--json"
    )

    assert done.code == 0, done.err
    assert "metrics of the best model" in done.out
    assert "INFO" not in done.err
    assert outcome(Run.open(base / "submitted")) == outcome(whole)
    assert failed.code == 2
    assert failed.document["status"] == "FAILED"
    assert "error: " in failed.err


@pytest.mark.slow
def test_whoever_stops_following_leaves_the_job_running(base, cluster, whole):
    words = ["--workers", 2, "--address", cluster.dashboard]
    process = cluster.start("submit", *arguments(base, "left", *words))

    wait_until(lambda: last_step(base / "left") >= 10)
    process.send_signal(signal.SIGINT)
    left = finish(process, 20)
    wait_until((base / "left/result.json").exists, 100)

    assert left.code == 130
    assert "the job goes on without this command" in left.err
    assert "ray job stop --address" in left.err
    assert "Traceback" not in left.err
    assert outcome(Run.open(base / "left")) == outcome(whole)


@pytest.mark.slow
def test_ray_job_submit_works_and_ray_job_stop_leaves_a_checkpoint(base, cluster, whole):
    ray = str(Path(sys.executable).parent / "ray")
    env = {**cluster.env, "RAY_API_SERVER_ADDRESS": cluster.dashboard}
    place = f'run.dir="{base / "stopped"}"'
    line = ["python", "-m", "muxtable", "train", "job.toml", "--workers", "2", "--set", place]
    environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    submit = [ray, "job", "submit", "--working-dir", ".", "--runtime-env-json", environment]

    process = subprocess.Popen(
        [*submit, "--submission-id", "stopped", "--", *line],
        cwd=base,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: last_step(base / "stopped") >= 30)
    subprocess.run([ray, "job", "stop", "stopped"], env=env, check=True, capture_output=True)
    stopped = finish(process)
    was_finished = (base / "stopped/result.json").exists()
    again = subprocess.run(
        [*submit, "--", *line], cwd=base, env=env, capture_output=True, text=True, check=False
    )

    assert "goes on from there" in stopped.out
    assert not was_finished
    assert again.returncode == 0, again.stdout
    assert outcome(Run.open(base / "stopped")) == outcome(whole)


@pytest.mark.slow
def test_doctor_looks_at_every_node(cluster):
    done = cluster.run("doctor", "--address", cluster.address, "--json")

    (node,) = done.document["nodes"]
    assert done.code == 0
    assert done.document["warnings"] == []
    assert node["cpus"] == 3
    assert node["torch"]
    assert node["native"] in ("baseline", "avx2", "avx512")


def last_step(folder: Path) -> int:
    journal = folder / "metrics.jsonl"
    lines = read_journal(journal) if journal.exists() else []
    return max((line["step"] for line in lines), default=0)


def memory() -> tuple[int, int]:
    """Returns the bytes in use on this machine, and all there are."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    return total - free, total


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def write_hostile(source: Path, target: Path, extension: str, canary: Path) -> None:
    """Writes the rows again with a column whose Arrow extension holds a pickle."""
    rows = pq.read_table(source)
    metadata = {
        b"ARROW:extension:name": extension.encode(),
        b"ARROW:extension:metadata": pickle.dumps(Canary(canary)),
    }
    field = pa.field("extra", pa.list_(pa.float64()), metadata=metadata)
    column = pa.array([[1.0]] * len(rows), pa.list_(pa.float64()))
    pq.write_table(rows.append_column(field, column), target)
