"""The planted signal is what it says it is, and its benchmark runs and prints every figure."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.planted_data import CRITEO, EXPONENT, LABEL, NAMES, write_planted

ROOT = Path(__file__).resolve().parents[2]


def test_the_same_seed_plants_the_same_rows(tmp_path):
    first = write_planted(tmp_path / "a", 3, 2000, 1000)
    again = write_planted(tmp_path / "b", 3, 2000, 1000)
    other = write_planted(tmp_path / "c", 4, 2000, 1000)

    assert first == again
    for name in ("train.parquet", "test.parquet"):
        assert pq.read_table(tmp_path / "a" / name).equals(pq.read_table(tmp_path / "b" / name))
    assert other.bayes_auc != first.bayes_auc


def test_rows_that_are_there_are_kept_and_others_replaced(tmp_path):
    truth = write_planted(tmp_path, 3, 2000, 1000)
    written = (tmp_path / "train.parquet").stat().st_mtime_ns

    kept = write_planted(tmp_path, 3, 2000, 1000)
    unchanged = (tmp_path / "train.parquet").stat().st_mtime_ns
    write_planted(tmp_path, 3, 500, 1000)

    assert (kept, unchanged) == (truth, written)
    assert pq.read_metadata(tmp_path / "train.parquet").num_rows == 500


def test_ids_are_zipf_and_no_single_feature_ranks_as_well_as_the_truth(tmp_path):
    truth = write_planted(tmp_path, 0, 60_000, 20_000)

    rows = pq.read_table(tmp_path / "train.parquet")

    assert rows.column_names == [*NAMES, LABEL]
    for name, count in zip(NAMES, CRITEO, strict=True):
        ids = rows[name].to_numpy()
        shares = np.arange(1, count + 1) ** -EXPONENT
        assert 0 <= ids.min() <= ids.max() < count
        assert (ids == 0).mean() == pytest.approx(1 / shares.sum(), rel=0.1)
    test = pq.read_table(tmp_path / "test.parquet")
    labels = test[LABEL].to_numpy()
    assert labels.mean() == truth.rate
    assert 0.75 < truth.bayes_auc < 0.85
    assert all(abs(roc_auc_score(labels, test[name].to_numpy()) - 0.5) < 0.2 for name in NAMES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_run_prints_every_figure():
    command = [sys.executable, "-m", "benchmarks.planted", "--quick", "--json", "--threads", "1"]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert {"gain_0.1", "residents_pf", "residents_mx", "angle_0.1", "growth_0.1"} <= set(
        result["ratios"]
    )
    # Not all values come in so few rows, so that fewer collide than in the full run.
    assert [row["table"] for row in result["rows"]] == ["per feature", "multiplexed"] * 3
    assert all(0.5 < row["auc"] < row["bayes_auc"] for row in result["rows"])
