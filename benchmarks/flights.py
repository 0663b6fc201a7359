"""The demo's AUC beside scikit-learn's one-hot logistic regression on the same columns and split.

    python -m benchmarks.flights [--quick] [--json] [--threads N]

Both splits of the demo: whole days drawn at random, and the last weeks of the year. The regression
gets every categorical column one-hot, every number standardised with a column that says where it is
missing, and the penalty that is best in validation; once as the columns are, and once with the
demo's crosses one-hot too, which is what a person would have to make by hand. Ours is the mean over
three seeds: with a tenth of a year's days to test on, seeds differ by some .005.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from benchmarks import harness
from launch.converters.splits import PARTS
from launch.demo.flights import LABEL, read_flights, split_by_days, split_by_time, write_split
from launch.demo.job import demo_job

PENALTIES = (0.01, 0.1, 1.0)
SEEDS = (0, 1, 2)


class Regression:
    """One-hot logistic regression on the columns of a job."""

    def __init__(self, job: dict[str, Any], crosses: bool) -> None:
        features = job["features"]
        # Bucketized numbers are categorical columns for the job, and so they are here.
        cut = [name for name, keys in job.get("feature", {}).items() if "bucketize" in keys]
        self._numbers = [name for name in features["dense"] if name not in cut]
        self._limits = [
            job["feature"].get(name, {}).get("clip", (-np.inf, np.inf)) for name in self._numbers
        ]
        self._words = [[name] for name in (*features["categorical"], *cut)]
        if crosses:
            self._words += list(features["cross"].values())

    def fit(self, parts: list[pa.Table], penalties: tuple[float, ...]) -> dict[str, float]:
        """Returns the metrics on the last part, for the penalty that is best on the second."""
        train, valid, test = parts
        encoder = OneHotEncoder(handle_unknown="ignore").fit(self._categories(train))
        numbers = self._values(train)
        mean, std = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)

        def matrix(table: pa.Table) -> Any:
            values = (self._values(table) - mean) / std
            missing = np.isnan(values)
            dense = np.hstack([np.where(missing, 0, values), missing])
            return sp.hstack([encoder.transform(self._categories(table)), dense]).tocsr()

        labels = [part[LABEL].to_numpy() for part in parts]
        inputs = [matrix(part) for part in (train, valid, test)]
        best = -1.0
        found: dict[str, float] = {}
        for penalty in penalties:
            harness.progress(f"  regression, C = {penalty}, {inputs[0].shape[1]:,} columns")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = LogisticRegression(C=penalty, max_iter=300).fit(inputs[0], labels[0])
            score = roc_auc_score(labels[1], model.decision_function(inputs[1]))
            if score > best:
                best = score
                predicted = model.predict_proba(inputs[2])[:, 1]
                found = {
                    "auc": float(roc_auc_score(labels[2], predicted)),
                    "log_loss": float(log_loss(labels[2], predicted)),
                    "penalty": penalty,
                    "columns": inputs[0].shape[1],
                }
        return found

    def _categories(self, table: pa.Table) -> Any:
        columns = []
        for names in self._words:
            texts = [pc.fill_null(pc.cast(table[name], pa.string()), "null") for name in names]
            joined = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "|")
            columns.append(joined.to_numpy(zero_copy_only=False))
        return np.stack(columns, axis=1)

    def _values(self, table: pa.Table) -> Any:
        columns = [table[name].cast(pa.float64()).to_numpy() for name in self._numbers]
        return np.clip(np.stack(columns, axis=1), *np.array(self._limits).T)


def train(folder: Path, seed: int, threads: int) -> dict[str, float]:
    """Trains the demo's job with the real command and returns its test metrics."""
    settings = {"run.dir": json.dumps(f"run{seed}"), "train.seed": seed, "train.threads": threads}
    command = [sys.executable, "-m", "muxtable", "train", str(folder / "job.toml"), "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    metrics = json.loads(done.stdout)["metrics"]["test"]
    return {"auc": metrics["auc"], "log_loss": metrics["log_loss"]}


def main() -> None:
    """Runs the comparison on both splits."""
    options = harness.start("flights", __doc__)
    flights = read_flights().table
    penalties = PENALTIES[1:2] if options.quick else PENALTIES
    rows, ratios = [], {}
    for split, parts in (("days", split_by_days(flights)), ("time", split_by_time(flights))):
        if options.quick:
            parts = [part.take(np.arange(0, part.num_rows, 8)) for part in parts]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            counts = write_split(parts, folder)
            text = demo_job(".", "run")
            (folder / "job.toml").write_text(text)
            harness.progress(f"{split}: muxtable")
            runs = [train(folder, seed, options.threads) for seed in SEEDS]
        ours = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        ours["auc_by_seed"] = [run["auc"] for run in runs]
        job = tomllib.loads(text)
        plain = Regression(job, crosses=False).fit(parts, penalties)
        crossed = Regression(job, crosses=True).fit(parts, penalties)
        for model, found in (
            ("muxtable", ours),
            ("logistic regression", plain),
            ("logistic regression with crosses", crossed),
        ):
            facts = {"auc": found["auc"], "log_loss": found["log_loss"]}
            facts |= {key: found[key] for key in ("penalty", "auc_by_seed") if key in found}
            rows.append({"split": split, "model": model, **facts, **counts})
        ratios[f"auc_gain_{split}"] = ours["auc"] - plain["auc"]
        ratios[f"auc_gain_over_crosses_{split}"] = ours["auc"] - crossed["auc"]
    assert set(counts) == set(PARTS)
    harness.finish(options, ratios=ratios, rows=rows)


if __name__ == "__main__":
    main()
