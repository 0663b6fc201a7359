"""The exchange benchmark runs and prints the figures it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick_run_prints_every_figure():
    command = [sys.executable, "-m", "benchmarks.exchange", "--quick", "--json"]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    cases = [f"w{ranks}_{ids}" for ranks in (2, 4) for ids in ("uniform", "zipf")]
    speeds = [
        f"speed_{case}{kind}" for case in cases for kind in ("", "_fp16", "_net", "_net_fp16")
    ]
    sizes = [f"bytes_{case}{kind}" for case in cases for kind in ("", "_fp16")]
    assert set(result["ratios"]) == {*speeds, *sizes}
    assert all(result["ratios"][f"bytes_{case}"] > 2 for case in cases)
    assert all(row["shared_ms"] > 0 for row in result["rows"])
