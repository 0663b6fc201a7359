"""Training on one rank and on two, with the real command; and what that makes of many ranks.

    python -m benchmarks.scaling [--quick] [--json]

A made-up log of 26 categorical columns and 13 numbers, DCN-V2 on top, one thread a rank. Runs
alternate; each figure is a median of them, of the speed that the run itself logs after its start.

    weak     speed of two ranks with a batch each, over twice the speed of one rank with one batch
    strong   speed of two ranks that share one batch, over that of one rank with the batch
    machine  speed of each of two trainings of one rank side by side, over that of one alone: what
             sharing caches and memory costs, whatever the ranks say to each other

The rows marked "calculated" take the time of a step on one rank from the weak run and the bytes
that each rank sends from `trainer.traffic` on the same data, and let nothing overlap: the time of
a step is computing plus bytes over the link. Latency, congestion and stragglers are left out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from features.parquet import open_dataset
from features.profile import build_profile
from features.schema import FeatureSet
from trainer.job import Job
from trainer.journal import read_journal
from trainer.plan import make_plan
from trainer.representations.registry import build_layout
from trainer.toml import toml_text
from trainer.traffic import measure_traffic

NUM_IDS, NUM_NUMBERS = 26, 13
BATCH = 4096
LOCAL_HOST = ["--nnodes", "1", "--standalone"]
RANKS = (8, 64, 256)
GIGABITS = (25, 100)


def write_log(folder: Path, rows: int) -> None:
    """Writes the rows as eight files, ids drawn by Zipf's law from a million values of each."""
    rng = np.random.default_rng(0)
    for number in range(8):
        n = rows // 8
        columns: dict[str, Any] = {}
        for i in range(NUM_IDS):
            # The inverse of the integral of x^-1.05 between 1 and a million.
            u = rng.random(n)
            columns[f"id{i}"] = ((u * (1e6**-0.05 - 1) + 1) ** (-1 / 0.05)).astype(np.int64)
        for i in range(NUM_NUMBERS):
            columns[f"x{i}"] = rng.random(n).astype(np.float32)
        columns["label"] = rng.integers(0, 2, n).astype(np.int8)
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=16_384)


def job_tree(steps: int) -> dict[str, Any]:
    """Returns the job; batch size, steps and folder are set by each run."""
    return {
        "data": {"train": "*.parquet", "label": "label", "streams": 8, "block_rows": 16_384},
        "features": {
            "categorical": [f"id{i}" for i in range(NUM_IDS)],
            "dense": [f"x{i}" for i in range(NUM_NUMBERS)],
        },
        "table": {"budget": "256 MB", "width": 32, "lookups": 1, "exact_below": 0},
        "tower": {"kind": "dcnv2", "hidden": [256, 128]},
        "train": {"threads": 1, "max_steps": steps, "log_every": 5, "epochs": 100},
        "run": {"checkpoint_every": 10**9, "tensorboard": False},
    }


class Trainings:
    """Starts trainings of one job in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def start(self, ranks: int, batch: int) -> tuple[subprocess.Popen[str], Path]:
        """Starts a training."""
        self._count += 1
        run = self._folder / f"run{self._count}"
        train = ["muxtable", "train", str(self._folder / "job.toml"), "--quiet"]
        for key, value in {"run.dir": json.dumps(str(run)), "train.batch_size": batch}.items():
            train += ["--set", f"{key}={value}"]
        launcher = ["torch.distributed.run", *LOCAL_HOST, "--nproc-per-node", str(ranks), "-m"]
        words = [sys.executable, "-m", *(launcher if ranks > 1 else []), *train]
        process = subprocess.Popen(words, text=True, stderr=subprocess.PIPE)
        return process, run

    def speed(self, started: tuple[subprocess.Popen[str], Path]) -> float:
        """Returns the samples per second of a training once it has ended."""
        process, run = started
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors)
        lines = [each for each in read_journal(run / "metrics.jsonl") if each["kind"] == "train"]
        # The first lines hold the start: pages of the table touched for the first time.
        return statistics.median(line["samples_per_s"] for line in lines[len(lines) // 4 :])


def measure(trainings: Trainings, repeats: int) -> dict[str, float]:
    """Returns samples per second by case."""
    found: dict[str, list[float]] = {}
    for number in range(repeats):
        harness.progress(f"round {number + 1} of {repeats}")
        for name, ranks, batch in (
            ("one", 1, BATCH),
            ("two_shared", 2, BATCH),
            ("two_each", 2, 2 * BATCH),
        ):
            speed = trainings.speed(trainings.start(ranks, batch))
            found.setdefault(name, []).append(speed)
        both = [trainings.start(1, BATCH) for _ in range(2)]
        found.setdefault("side_by_side", []).extend(trainings.speed(each) for each in both)
    return {name: statistics.median(speeds) for name, speeds in found.items()}


def calculated(folder: Path, tree: dict[str, Any], step_s: float) -> list[dict[str, Any]]:
    """Returns the rows for many ranks with a batch each."""
    rows = []
    dataset = open_dataset("*.parquet", folder)
    for ranks in RANKS:
        changed = {
            **tree,
            "data": {**tree["data"], "streams": ranks},
            "train": {**tree["train"], "batch_size": BATCH * ranks},
        }
        job = Job.model_validate(changed)
        feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
        profile = build_profile(dataset, feature_set, job.table)
        plan = make_plan(job, feature_set, profile, world_size=ranks)
        layout = build_layout(feature_set, profile, job.table)
        traffic = measure_traffic(job, plan, layout, dataset, feature_set, profile, ranks)
        sent = (traffic.exchange_bytes + traffic.tower_bytes) / ranks
        for gigabits in GIGABITS:
            wire_s = sent * 8 / (gigabits * 1e9)
            rows.append(
                {
                    "case": "calculated",
                    "ranks": ranks,
                    "gigabits_per_s": gigabits,
                    "mb_per_rank_and_step": sent / 1e6,
                    "compute_ms": step_s * 1e3,
                    "wire_ms": wire_s * 1e3,
                    "efficiency": step_s / (step_s + wire_s),
                    "samples_per_s": BATCH * ranks / (step_s + wire_s),
                }
            )
    return rows


def main() -> None:
    """Runs the trainings and prints the figures."""
    options = harness.start("scaling", __doc__)
    repeats, steps, rows = (1, 40, 65_536) if options.quick else (5, 60, 1_048_576)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, rows)
        tree = job_tree(steps)
        (folder / "job.toml").write_text(toml_text(tree))
        speeds = measure(Trainings(folder), repeats)
        found = [{"case": case, "samples_per_s": speed} for case, speed in speeds.items()]
        found += calculated(folder, tree, BATCH / speeds["one"])
    harness.finish(
        options,
        ratios={
            "weak": speeds["two_each"] / (2 * speeds["one"]),
            "strong": speeds["two_shared"] / speeds["one"],
            "machine": speeds["side_by_side"] / speeds["one"],
        },
        rows=found,
    )


if __name__ == "__main__":
    main()
