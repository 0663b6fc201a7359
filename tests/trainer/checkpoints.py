"""The two checkpoints that every test of stopped or failed saves uses: step 1, then step 2."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from trainer.checkpoint import CheckpointStore, latest_checkpoint
from trainer.latest import NAME

ROOT = Path(__file__).resolve().parents[2]


def tensors(step: int, rows: int = 100) -> dict[str, np.ndarray]:
    return {"weight": np.full((rows, 3), step, np.float32), "step": np.array(step)}


def save(store: CheckpointStore, step: int, best: bool = False, rows: int = 100):
    return store.save(step, {}, tensors(step, rows), {"p.json": b"{}"}, {"at": step}, best)


def state(directory: Path) -> int | None:
    """Returns the step of the checkpoint in force, verified and equal to what was saved."""
    bundle = latest_checkpoint(directory)
    if bundle is None:
        return None
    with bundle:
        step = bundle.content["at"]
        expected = tensors(step, bundle.entry("weight").num_rows)
        for name in ("weight", "step"):
            np.testing.assert_array_equal(bundle.tensor(name), expected[name])
        assert bundle.file("p.json") == b"{}"
    return step


def steps(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if NAME.fullmatch(path.name))


RACER = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from features.errors import SnapshotError
from tests.trainer.checkpoints import save
from trainer.checkpoint import CheckpointStore
print("begin", flush=True)
try:
    with CheckpointStore(Path(sys.argv[1]), 10_000) as store:
        latest = store.latest()
        step = latest.content["at"] if latest else 0
        while True:
            step += 1
            save(store, step)
            print(step, flush=True)
except SnapshotError as exc:
    print(exc.what, flush=True)
    sys.exit(1)
"""


def run(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
