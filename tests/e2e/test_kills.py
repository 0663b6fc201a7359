"""kill -9 at random instants: every run resumes by itself and ends bit for bit the same.

MUXTABLE_KILLS sets the number of kills of the slow test, MUXTABLE_KILLS_SEED the instants.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.journal import WALL_CLOCK, read_journal
from trainer.run import Run
from trainer.toml import toml_text

# Lists, dense columns, dropout, Adam on both sides: everything that has a state.
JOB = clicks_job(
    table={"optimizer": "adam", "learning_rate": 0.01},
    train={"batch_size": 32, "epochs": 4, "valid_every": 70, "log_every": 10},
    run={"checkpoint_every": 17, "tensorboard": True},
)


class Trainer:
    """Starts `muxtable train` in folders below one."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._job = base / "job.toml"
        self._job.write_text(toml_text(JOB.model_dump(mode="json")))

    def start(self, folder: Path) -> subprocess.Popen[str]:
        command = ["-m", "muxtable", "train", str(self._job), "--set", f'run.dir="{folder}"']
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def finish(self, folder: Path) -> float:
        started = time.monotonic()
        process = self.start(folder)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return time.monotonic() - started


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Trainer:
    base = tmp_path_factory.mktemp("clicks")
    write_clicks(base)
    return Trainer(base)


@pytest.fixture(scope="module")
def whole(trainer) -> tuple[Run, float]:
    folder = trainer.base / "whole"
    seconds = trainer.finish(folder)
    return Run.open(folder), seconds


def outcome(run: Run) -> dict[str, object]:
    """All that a run leaves behind, without the fields that hold times."""
    tensors = {}
    for which in ("last", "best"):
        with saving.open_checkpoint(run.checkpoints, which) as bundle:
            state = {
                key: value
                for key, value in bundle.content["state"].items()
                # The length of the journal follows the digits of its times.
                if key not in ("elapsed_s", "journal_offset")
            }
            tensors[which] = {
                name: np.array(bundle.tensor(name)).tobytes() for name in bundle.tensor_names
            }
            tensors[f"{which} state"] = json.dumps(state)
    lines = [
        {key: value for key, value in line.items() if key not in WALL_CLOCK}
        for line in read_journal(run.journal)
    ]
    result = {k: v for k, v in run.result().items() if k not in ("time", "memory")}
    return {"tensors": tensors, "lines": lines, "result": result}


def kill_until(trainer: Trainer, whole: tuple[Run, float], kills: int, seed: int) -> list[int]:
    """Kills runs `kills` times; compares every one that comes to its end; returns their exits."""
    expected, seconds = outcome(whole[0]), whole[1]
    clock = random.Random(seed)
    ended, num_killed, number = [], 0, 0
    while num_killed < kills or not ended:
        folder = trainer.base / f"killed-{seed}-{number}"
        number += 1
        while True:
            process = trainer.start(folder)
            try:
                wait = clock.uniform(0, 1.1 * seconds) if num_killed < kills else 300
                _, errors = process.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                num_killed += 1
                continue
            assert process.returncode == 0, errors
            break
        assert outcome(Run.open(folder)) == expected, f"seed {seed}: {folder.name} differs"
        leftovers = [p.name for p in folder.rglob(".*") if p.name.endswith(".tmp")]
        assert leftovers == []
        ended.append(process.returncode)
    return ended


@pytest.mark.timeout(240)
def test_a_run_killed_three_times_ends_bit_for_bit_the_same(trainer, whole) -> None:
    ended = kill_until(trainer, whole, kills=3, seed=0)

    assert set(ended) == {0}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_killed_at_random_instants_end_bit_for_bit_the_same(trainer, whole) -> None:
    kills = int(os.environ.get("MUXTABLE_KILLS", "30"))
    seed = int(os.environ.get("MUXTABLE_KILLS_SEED", "1"))

    ended = kill_until(trainer, whole, kills, seed)

    assert set(ended) == {0}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on(trainer, whole, number, code) -> None:
    folder = trainer.base / f"signal-{code}"
    process = trainer.start(folder)
    journal = folder / "metrics.jsonl"
    while not (journal.exists() and journal.stat().st_size):
        time.sleep(0.01)
        assert process.poll() is None

    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    with saving.open_checkpoint(folder / "checkpoints", "last") as bundle:
        step = saving.state_in(bundle).step
    trainer.finish(folder)

    assert process.returncode == code, errors
    assert 0 < step < 252
    assert outcome(Run.open(folder)) == outcome(whole[0])
