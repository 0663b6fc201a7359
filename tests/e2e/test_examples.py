"""The examples run as their headers say and reach the metric they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LOOPS = sorted(EXAMPLES.glob("own_loop_*.py"))


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_own_loops_reach_the_metric_in_their_header(path):
    text = path.read_text()
    promised = re.search(r"AUC ([0-9.]+) \(([0-9.]+) to ([0-9.]+) elsewhere\)", text)
    assert f"python examples/{path.name}" in text

    run = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=EXAMPLES.parent,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    reached = float(re.search(r"validation AUC ([0-9.]+)", run.stdout)[1])
    nominal, low, high = map(float, promised.groups())
    assert low < reached < high
    assert low < nominal < high


def test_both_ways_of_training_have_an_example():
    assert [path.stem for path in LOOPS] == ["own_loop_fused", "own_loop_parameter"]
