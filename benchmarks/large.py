"""A table that fills the machine: 12 GB, three billion parameters, on two ranks.

    python -m benchmarks.large [--quick] [--json]

Trains with the real command under torchrun, is told to stop, saves, is started again from its
checkpoint and trains on to its end. Memory is that of both ranks together, shared pages counted
once, sampled while they live; the page cache is not in it.

    memory_gb     the largest sample
    disk_gb       the most that the checkpoints took, one of them being written
    table_gb      parameters of the table
    start_s       from the command to the first trained steps, the table's initial values included
    step_ms       time of a step once all is warm
    save_s        from the request to stop to the end of the process: a checkpoint of all
    resume_s      from the command to the first trained steps out of the checkpoint
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from trainer.journal import read_journal
from trainer.toml import toml_text

NUM_IDS = 20
BATCH = 4096
STOP_AT, LAST = 60, 120


def write_log(folder: Path, rows: int) -> None:
    """Writes rows whose ids are nearly all different."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"id{i}": rng.integers(0, 2**40, rows) for i in range(NUM_IDS)}
    columns["label"] = rng.integers(0, 2, rows).astype(np.int8)
    pq.write_table(pa.table(columns), folder / "log.parquet", row_group_size=16_384)


def job_tree(budget: str) -> dict[str, Any]:
    """Returns the job."""
    return {
        "data": {"train": "log.parquet", "label": "label", "streams": 8, "block_rows": 16_384},
        "features": {"categorical": [f"id{i}" for i in range(NUM_IDS)]},
        "table": {"budget": budget, "width": 32, "lookups": 1, "exact_below": 0},
        "train": {
            "batch_size": BATCH,
            "threads": 1,
            "epochs": 1000,
            "max_steps": LAST,
            "log_every": 5,
        },
        "run": {"dir": "run", "keep": 1, "tensorboard": False, "checkpoint_every": 10**9},
    }


class Training:
    """One start of the run, watched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.memory = self.disk = 0
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = [*launcher, "-m", "muxtable", "train", str(folder / "job.toml"), "--quiet"]
        self.process = subprocess.Popen([sys.executable, "-m", *words], start_new_session=True)

    def until(self, is_true: Callable[[], bool]) -> float:
        """Waits and samples; returns the seconds since the start."""
        while not is_true():
            if self.process.poll() not in (None, 0) and not is_true():
                raise RuntimeError(f"the training ended with {self.process.returncode}")
            self.memory = max(self.memory, sum(map(_proportional_bytes, self._ranks())))
            self.disk = max(self.disk, _tree_bytes(self.folder / "run" / "checkpoints"))
            time.sleep(0.2)
        return time.monotonic() - self.began

    def stop(self) -> None:
        """Asks the ranks to stop: torchrun itself would not wait for their checkpoint."""
        for pid in self._ranks():
            os.kill(pid, signal.SIGTERM)

    def has_ended(self) -> bool:
        """Whether all processes have."""
        return self.process.poll() is not None

    def _ranks(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in task.read_text().split()]
        except OSError:
            return []


def _proportional_bytes(pid: int) -> int:
    """Private memory, and of shared pages the part that is its own."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "run" / "metrics.jsonl"
    return read_journal(path) if path.exists() else []


def measure(folder: Path) -> dict[str, float]:
    """Returns the figures of one run in a folder."""

    def step() -> int:
        return max((int(line["step"]) for line in _lines(folder)), default=0)

    harness.progress("training from the start")
    first = Training(folder)
    start_s = first.until(lambda: step() >= 5)
    first.until(lambda: step() >= STOP_AT)
    harness.progress("stopping after a checkpoint")
    asked = time.monotonic()
    first.stop()
    first.until(first.has_ended)
    save_s = time.monotonic() - asked
    stopped = step()
    harness.progress("going on from the checkpoint")
    second = Training(folder)
    resume_s = second.until(lambda: step() > stopped)
    second.until(second.has_ended)
    lines = _lines(folder)
    speeds = [line["samples_per_s"] for line in lines[len(lines) // 4 :]]
    result = json.loads((folder / "run" / "result.json").read_text())
    return {
        "table_gb": result["table"]["parameter_bytes"] / 1e9,
        "memory_gb": max(first.memory, second.memory) / 1e9,
        "planned_gb": 2 * result["memory"]["planned_bytes"] / 1e9,
        "disk_gb": max(first.disk, second.disk) / 1e9,
        "start_s": start_s,
        "step_ms": 1e3 * BATCH / statistics.median(speeds),
        "save_s": save_s,
        "resume_s": resume_s,
    }


def main() -> None:
    """Trains and prints the figures."""
    options = harness.start("large", __doc__)
    budget, rows = ("120 MB", 65_536) if options.quick else ("12 GB", 524_288)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, rows)
        (folder / "job.toml").write_text(toml_text(job_tree(budget)))
        found = measure(folder)
    harness.finish(options, ratios=found, rows=[])


if __name__ == "__main__":
    main()
