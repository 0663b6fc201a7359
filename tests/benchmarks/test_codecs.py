"""The codec benchmark runs, prints the figures it is asked for and draws its chart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_run_prints_every_figure():
    command = [sys.executable, "-m", "benchmarks.codecs", "--quick", "--json", "--threads", "1"]

    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert {"auc_loss_int8_flights", "auc_loss_int4_flights", "raw_vs_numpy"} <= set(
        result["ratios"]
    )
    codecs = [row for row in result["rows"] if "codec" in row]
    assert [row["codec"] for row in codecs] == ["float32", "int8", "int4", "float8"]
    assert all(row["encode_mrows_s"] > 0 and row["decode_mrows_s"] > 0 for row in codecs)
    assert (ROOT / "build" / "codecs-flights.png").exists()
