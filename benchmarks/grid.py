"""Many trainings of one job file with other settings, each kept once it is done.

A point is a job file, the settings that differ, a seed and a hash seed. What came out of it is a
line of `benchmarks/results/NAME.jsonl` under the sha256 of all that: a point that stands there is
never trained again, and several runs may write to one file at a time. The real command trains,
one thread each; `processes` of them run side by side.
"""

import fcntl
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from launch.sweep.statistics import sample, welch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Raise it when something that decides a result changes and no setting says so.
_PROTOCOL = 1

Value = str | int | float | bool
Outcome = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One training. The hash seed follows the seed unless it is given: which values collide moves
    the AUC ten times as much as everything else that is random."""

    job: str
    """A job file, relative to the repository."""
    settings: tuple[tuple[str, Value], ...]
    seed: int
    hash_seed: int | None = None
    also: tuple[tuple[str, str], ...] = ()
    """More files the best checkpoint is measured on: a name, and a path in the repository."""

    @property
    def overrides(self) -> dict[str, Value]:
        """All settings of the job file that differ, the seeds among them."""
        hash_seed = self.seed if self.hash_seed is None else self.hash_seed
        return {
            **dict(self.settings),
            "train.seed": self.seed,
            "table.hash_seed": hash_seed,
        }

    @property
    def digest(self) -> str:
        """sha256 of everything that decides what comes out, the job file's text among it."""
        text = (ROOT / self.job).read_text()
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        tree: list[Any] = [_PROTOCOL, lines, sorted(self.overrides.items())]
        if self.also:
            tree.append(sorted(self.also))
        return hashlib.sha256(json.dumps(tree).encode()).hexdigest()

    def label(self) -> str:
        """Returns the settings in short."""
        values = (
            str(value).replace(" ", "")
            for key, value in self.settings
            if not key.startswith("data.")
        )
        return f"{Path(self.job).stem} {' '.join(values)} seed {self.seed}"


class Store:
    """The points that are done."""

    def __init__(self, name: str) -> None:
        self.path = RESULTS / f"{name}.jsonl"

    def outcomes(self) -> dict[str, Outcome]:
        """Returns what came out, by the digest of the point."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text().splitlines()
        return {each["digest"]: each for each in map(json.loads, lines)}

    def add(self, point: Point, outcome: Outcome) -> None:
        """Keeps what came out of a point."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"digest": point.digest, "job": point.job, **point.overrides, **outcome}
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line) + "\n")


def train(point: Point, folder: Path) -> Outcome:
    """Trains a point by the real command and returns what came out.

    A budget that a method cannot live on is an outcome too: {"infeasible": why}.
    """
    run_dir = folder / point.digest[:16]
    settings: dict[str, Value] = {
        **point.overrides,
        "run.dir": str(run_dir),
        "run.tensorboard": False,
        "train.threads": 1,
    }
    command = [sys.executable, "-m", "muxtable", "train", str(ROOT / point.job), "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        error = json.loads(done.stdout).get("error", {}) if done.stdout else {}
        if done.returncode == 2 and "table.budget" in error.get("fix", ""):
            return {"infeasible": error["what"]}
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    result = json.loads((run_dir / "result.json").read_text())
    more = {f"auc_{name}": _auc(run_dir, path) for name, path in point.also}
    shutil.rmtree(run_dir)
    return {
        "auc": result["metrics"]["test"]["auc"],
        "log_loss": result["metrics"]["test"]["log_loss"],
        "valid_auc": result["metrics"]["valid"]["auc"],
        "bytes": result["table"]["parameter_bytes"],
        "rows": result["table"]["rows"],
        "row_width": result["table"]["width"],
        "best_step": result["best_step"],
        "steps": result["steps"],
        "seconds": round(seconds, 1),
        "commit": harness.commit(),
        **more,
    }


def _auc(run_dir: Path, path: str) -> float:
    command = [sys.executable, "-m", "muxtable", "eval", str(run_dir), str(ROOT / path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["auc"])


def run(name: str, points: Sequence[Point], processes: int) -> dict[str, Outcome]:
    """Trains the points that are not done yet; returns what came out of all, by digest."""
    store = Store(name)
    done = store.outcomes()
    open_points = [point for point in dict.fromkeys(points) if point.digest not in done]
    harness.progress(
        f"{name}: {len(points) - len(open_points)} points done, {len(open_points)} left"
    )
    began = time.monotonic()

    def train_unless_done(point: Point) -> Outcome:
        # Another run that writes to the same file may have been here since.
        outcome = store.outcomes().get(point.digest)
        if outcome is None:
            outcome = train(point, Path(folder))
            store.add(point, outcome)
        return outcome

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(train_unless_done, point): point for point in open_points}
        for count, future in enumerate(as_completed(futures), 1):
            point, outcome = futures[future], future.result()
            left = (time.monotonic() - began) / count * (len(open_points) - count)
            found = outcome.get("auc")
            said = "infeasible" if found is None else f"{found:.4f}"
            harness.progress(f"{point.label()}: {said}; {left / 60:.0f} min left")
    return store.outcomes()


def summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Returns mean and sample standard deviation over the seeds of one setting."""
    found = list(outcomes)
    why = next((each["infeasible"] for each in found if "infeasible" in each), None)
    if why is not None or not found:
        return {"seeds": 0, "infeasible": why or "not run"}
    aucs = sample([each["auc"] for each in found])
    return {
        "seeds": aucs.count,
        "auc": aucs.mean,
        "auc_std": aucs.std or 0.0,
        "log_loss": statistics.mean(each["log_loss"] for each in found),
        "bytes": found[0]["bytes"],
        "seconds": statistics.median(each["seconds"] for each in found),
    }


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Returns by how much the mean of `first` is above that of `second`, and Welch's p of it."""
    found = welch(first, second)
    return {"gain": found.difference, "p": found.p}


def settings_of(settings: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Returns settings as a Point has them."""
    return tuple(sorted(settings.items()))
