"""ML-1M: test AUC of collisionless, per-feature and multiplexed tables, beside the paper's.

    muxtable convert movielens ML-1M --out examples/ml1m/data --drop-rating 3
    python -m benchmarks.ml1m [--quick] [--json] [--threads N]

Runs the job files of examples/ml1m with the real command, three seeds each. The hash seed varies
with the seed, since which values collide moves the AUC ten times as much as everything else random.

Source of the paper's column: Coleman et al. 2023, arXiv 2305.12102, Table 1 (as transcribed by the
replication whose results stand in the next column).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from launch.settings import load_job

ROOT = Path(__file__).resolve().parents[1]
JOBS = ROOT / "examples" / "ml1m"
SOURCE = ROOT.parent / "shared" / "data" / "ml-1m"
BUDGETS = ("1581 kB", "791 kB", "158 kB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One line of the table: a job file at a budget, and what others measured there."""

    job: str
    budget: str | None = None
    paper: float | None = None
    replication: float | None = None


POINTS = (
    Point(job="collisionless", paper=0.8872, replication=0.8985),
    Point(job="per_feature", budget=BUDGETS[0], paper=0.8537, replication=0.8684),
    Point(job="per_feature", budget=BUDGETS[1], paper=0.8300, replication=0.8407),
    Point(job="per_feature", budget=BUDGETS[2], paper=0.7707, replication=0.7712),
    Point(job="multiplexed", budget=BUDGETS[0], paper=0.8774, replication=0.8872),
    Point(job="multiplexed", budget=BUDGETS[1], paper=0.8693, replication=0.8759),
    Point(job="multiplexed", budget=BUDGETS[2], paper=0.8200, replication=0.8263),
    *(Point(job="two_lookups", budget=budget) for budget in BUDGETS),
    *(Point(job="three_lookups", budget=budget) for budget in BUDGETS),
)


def run(point: Point, seed: int, folder: Path, epochs: int | None) -> dict[str, Any]:
    """Trains one point with one seed and returns its test AUC and what its table is."""
    run_dir = folder / f"{point.job}-{(point.budget or 'all').replace(' ', '')}-{seed}"
    settings = [
        f"run.dir={json.dumps(str(run_dir))}",
        f"train.seed={seed}",
        f"table.hash_seed={seed}",
    ]
    settings += [f'table.budget="{point.budget}"'] if point.budget else []
    settings += [f"train.epochs={epochs}"] if epochs else []
    settings += ["train.threads=1", "run.tensorboard=false"]
    command = [
        sys.executable,
        "-m",
        "muxtable",
        "train",
        str(JOBS / f"{point.job}.toml"),
        "--quiet",
    ]
    command += [argument for setting in settings for argument in ("--set", setting)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    result = json.loads((run_dir / "result.json").read_text())
    return {"auc": result["metrics"]["test"]["auc"], **result["table"]}


def prepare() -> dict[str, Any]:
    """Converts ML-1M where that has not happened yet; returns rows and positive rate."""
    data = JOBS / "data"
    if not (data / "test.parquet").exists():
        if not SOURCE.exists():
            raise SystemExit(f"ML-1M is not at {SOURCE}; convert your copy as the docstring says")
        command = [sys.executable, "-m", "muxtable", "convert", "movielens", str(SOURCE)]
        command += [
            "--out",
            str(data),
            "--drop-rating",
            "3",
            "--split",
            "80/10/10",
            "--split-seed",
            "0",
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    import pyarrow.parquet as pq

    labels = [
        pq.read_table(data / f"{part}.parquet", columns=["label"])["label"].to_numpy()
        for part in ("train", "valid", "test")
    ]
    rows = sum(map(len, labels))
    return {"rows": rows, "positive_rate": sum(float(part.sum()) for part in labels) / rows}


def main() -> None:
    """Prints the table, or its JSON."""
    options = harness.start("ml1m", __doc__)
    seeds = (0,) if options.quick else (0, 1, 2)
    points = (POINTS[0], POINTS[6]) if options.quick else POINTS
    data = prepare()
    harness.progress(f"{data['rows']:,} rows, {data['positive_rate']:.4f} positive")
    tasks = [(point, seed) for point in points for seed in seeds]
    epochs = 1 if options.quick else None
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.threads) as pool:
        futures = {task: pool.submit(run, *task, Path(folder), epochs) for task in tasks}
        results = {}
        for task, future in futures.items():
            results[task] = future.result()
            auc = results[task]["auc"]
            harness.progress(f"{task[0].job} {task[0].budget or ''} seed {task[1]}: {auc:.4f}")
    rows = [summarise(point, [results[point, seed] for seed in seeds]) for point in points]
    mean = {(row["job"], row["budget"]): row["auc_mean"] for row in rows}
    ratios = {"positive_rate": data["positive_rate"]}
    for budget in BUDGETS:
        if ("multiplexed", budget) in mean and ("per_feature", budget) in mean:
            gain = mean["multiplexed", budget] - mean["per_feature", budget]
            ratios[f"gain_{budget.replace(' ', '')}"] = gain
    harness.finish(options, ratios, rows)


def summarise(point: Point, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table: mean and sample standard deviation of the test AUC over the seeds."""
    aucs = [run["auc"] for run in runs]
    table = load_job(JOBS / f"{point.job}.toml").table
    return {
        "job": point.job,
        "budget": point.budget or "",
        "method": table.method,
        "multiplexed": table.multiplexed,
        "lookups": table.lookups,
        "width": table.width,
        "bytes": runs[0]["parameter_bytes"],
        "seeds": len(runs),
        "auc_mean": statistics.mean(aucs),
        "auc_std": statistics.stdev(aucs) if len(aucs) > 1 else 0.0,
        "paper": point.paper,
        "replication": point.replication,
    }


if __name__ == "__main__":
    main()
