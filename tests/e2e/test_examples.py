"""The examples run as their headers say and reach the metric they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RANKS = ("--standalone", "--nproc-per-node", "2")
LOOPS = sorted(EXAMPLES.glob("own_loop_*.py"))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_own_loops_reach_the_metric_in_their_header(path):
    text = path.read_text()
    promised = re.search(r"AUC ([0-9.]+) \(([0-9.]+) to ([0-9.]+) elsewhere\)", text)
    by_ranks = f"torchrun --standalone --nproc-per-node 2 examples/{path.name}" in text
    assert by_ranks or f"python examples/{path.name}" in text
    # TorchRec's import warns of what Python shows nobody.
    start = ["-m", "torch.distributed.run", *RANKS] if by_ranks else ["-W", "error"]

    run = subprocess.run(
        [sys.executable, *start, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=EXAMPLES.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # torchrun warns where it is not set
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    reached = float(re.search(r"validation AUC ([0-9.]+)", run.stdout)[1])
    nominal, low, high = map(float, promised.groups())
    assert low < reached < high
    assert low < nominal < high


def test_every_way_of_training_has_an_example():
    names = [path.stem for path in LOOPS]
    assert names == ["own_loop_dmp", "own_loop_fused", "own_loop_parameter"]
