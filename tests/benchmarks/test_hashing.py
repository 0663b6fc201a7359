"""The hashing benchmark runs and prints the figures it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run_prints_every_figure_and_the_papers_co_residents():
    command = [sys.executable, "-m", "benchmarks.hashing", "--quick", "--json"]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run.returncode == 0, run.stderr
    ratios = json.loads(run.stdout)["ratios"]
    assert list(ratios) == ["int64_per_s", "strings_per_s", "co_residents_pf", "co_residents_mx"]
    assert ratios["int64_per_s"] > ratios["strings_per_s"] > 0
    assert ratios["co_residents_pf"] == pytest.approx(10.0, rel=0.02)
    assert ratios["co_residents_mx"] == pytest.approx(0.93, rel=0.02)
