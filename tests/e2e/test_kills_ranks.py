"""Kills of ranks, drivers and nodes: every run ends, without a hand, as one that nothing hit.

MUXTABLE_RANK_KILLS sets the number of kills of the slow tests (40: three fifths of them under
torchrun, the others under Ray), MUXTABLE_KILLS_SEED the instants.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, finish, kill_tree, tree
from tests.e2e.test_kills import outcome
from tests.launch.command import ROOT
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.journal import read_journal
from trainer.run import Run
from trainer.toml import toml_text

JOB = clicks_job(
    data={"streams": 6},
    table={"optimizer": "adam", "learning_rate": 0.01},
    train={"batch_size": 32, "epochs": 10, "valid_every": 150, "log_every": 5},
    run={"checkpoint_every": 10, "max_failures": 100},
)
KILLS = int(os.environ.get("MUXTABLE_RANK_KILLS", "40"))
SEED = int(os.environ.get("MUXTABLE_KILLS_SEED", "1"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    (path / "job.toml").write_text(toml_text(JOB.model_dump(mode="json", exclude_none=True)))
    return path


@pytest.fixture(scope="module")
def expected(base) -> Callable[[int], dict[str, object]]:
    """What a run of so many ranks leaves behind when nothing happens to it."""
    found: dict[int, dict[str, object]] = {}

    def of(ranks: int) -> dict[str, object]:
        if ranks not in found:
            done = finish(torchrun(base, f"whole{ranks}", ranks), 300)
            assert done.code == 0, done.err
            found[ranks] = outcome(Run.open(base / f"whole{ranks}"))
        return found[ranks]

    return of


def torchrun(base: Path, name: str, ranks: int) -> subprocess.Popen[str]:
    launcher = ["torch.distributed.run", "--standalone", "--max-restarts", "200"]
    train = ["muxtable", "train", str(base / "job.toml"), "--set", f'run.dir="{base / name}"']
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "--nproc-per-node", str(ranks), "-m", *train],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train under a torchrun."""
    found = []
    for pid in tree(process.pid):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if pid != process.pid and any(each.startswith(b"LOCAL_RANK=") for each in environment):
            found.append(pid)
    return found


def last_step(folder: Path) -> int:
    journal = folder / "metrics.jsonl"
    lines = read_journal(journal) if journal.exists() else []
    return max((line["step"] for line in lines), default=0)


class Clock:
    """Random instants: some after so many more steps, some at any second, the start-up too."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, pids: list[int]) -> int:
        return self._random.choice(pids)

    def wait(self, process: subprocess.Popen[str], folder: Path, longest_s: float) -> bool:
        """Waits for the next instant; False where the run ended before."""
        begun, first = time.monotonic(), last_step(folder)
        more, seconds = self._random.randint(12, 90), self._random.uniform(0, longest_s)
        by_steps = self._random.random() < 0.75

        def is_due() -> bool:
            if by_steps:
                return last_step(folder) >= first + more
            return time.monotonic() - begun >= seconds

        while not is_due():
            if process.poll() is not None:
                return False
            assert time.monotonic() - begun < 120, "the run stands still"
            time.sleep(self._random.uniform(0.005, 0.03))
        return process.poll() is None


def kill_under_torchrun(
    base: Path, name: str, ranks: int, kills: int, clock: Clock, *, kill_all: bool
) -> int:
    """Trains under torchrun and kills ranks up to `kills` times; returns how often it did."""
    process = torchrun(base, name, ranks)
    done = 0
    while done < kills and clock.wait(process, base / name, 6.0):
        pids = ranks_of(process)
        if len(pids) < ranks:
            time.sleep(0.2)
            continue
        for pid in pids if kill_all else [clock.choose(pids)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        done += 1
    ended = finish(process, 300)
    assert ended.code == 0, ended.err[-4000:]
    return done


@pytest.mark.timeout(200)
def test_ranks_killed_under_torchrun_end_the_same(base, expected):
    killed = kill_under_torchrun(base, "two", 2, 2, Clock(0), kill_all=False)

    assert killed >= 1
    assert outcome(Run.open(base / "two")) == expected(2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kill_all", [False, True])
def test_ranks_killed_at_random_instants_end_the_same(base, expected, kill_all):
    wanted, done, number = KILLS * 3 // 10, 0, 0
    clock = Clock(SEED + kill_all)
    while done < wanted:
        name, ranks = f"torchrun-{kill_all}-{number}", 2 + number % 2
        number += 1
        done += kill_under_torchrun(base, name, ranks, wanted - done, clock, kill_all=kill_all)
        assert outcome(Run.open(base / name)) == expected(ranks), name


class RayRun:
    """A run of two workers on a cluster, started again by hand only where its driver was killed."""

    def __init__(self, cluster: Cluster, base: Path, name: str) -> None:
        self.cluster, self.folder = cluster, base / name
        self._words = ["train", base / "job.toml", "--set", f'run.dir="{base / name}"']
        self._words += ["--workers", 2, "--address", cluster.address]
        self.process = cluster.start(*self._words)

    def again(self) -> None:
        self.process = self.cluster.start(*self._words)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["worker", "driver", "raylet"])
def test_what_ray_runs_is_killed_at_random_instants_and_ends_the_same(base, expected, victim):
    wanted, done, number = KILLS * 4 // 10 // (2 if victim == "worker" else 4), 0, 0
    clock = Clock(SEED)
    with Cluster(num_cpus=0) as cluster:
        for _ in range(2 + (wanted if victim == "raylet" else 0)):
            cluster.join(1)
        while done < wanted:
            name = f"ray-{victim}-{number}"
            number += 1
            run = RayRun(cluster, base, name)
            # Ray takes its time to start: seconds at random would hit nothing else.
            while done < wanted and clock.wait(run.process, run.folder, 25.0):
                busy = [node for node in cluster.nodes[1:] if node.workers()]
                if victim == "driver":
                    os.kill(run.process.pid, signal.SIGKILL)
                    run.process.communicate()
                    done += 1
                    run.again()
                elif busy and victim == "worker":
                    os.kill(clock.choose([pid for n in busy for pid in n.workers()]), 9)
                    done += 1
                elif busy:
                    kill_tree(busy[0].process)
                    cluster.nodes.remove(busy[0])
                    done += 1
            ended = finish(run.process, 600)
            assert ended.code == 0, ended.err[-4000:]
            assert outcome(Run.open(run.folder)) == expected(2), name
