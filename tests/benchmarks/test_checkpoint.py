"""The checkpoint benchmark runs and prints the figures it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick_run_prints_every_figure():
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--quick", "--json", "--threads", "1"]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert {"bytes_delta_1", "stall_whole", "stall_delta", "minute_whole", "marking"} <= set(
        result["ratios"]
    )
    assert 0 < result["ratios"]["bytes_delta_1"] < 1
