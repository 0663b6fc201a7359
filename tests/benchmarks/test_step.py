"""The step benchmark runs and prints the figures it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick_run_prints_every_figure():
    command = [sys.executable, "-m", "benchmarks.step", "--quick", "--json", "--threads", "1"]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert set(result["ratios"]) == {
        "vs_sliced_loop",
        "vs_dense_adam_small",
        "vs_dense_adam_large",
        "embedding_share",
    }
    assert 0 < result["ratios"]["embedding_share"] < 1
    assert all(row["ours_ms"] > 0 for row in result["rows"])
