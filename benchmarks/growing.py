"""ML-1M: a table that is trained, grown five-fold and trained on, or folded, against a large one.

    python -m benchmarks.growing [--quick] [--json]

Two lookups of width 15, 158 kB and five times the hashed rows, by the job of examples/ml1m (batches
of 1024, Adam, validation each epoch, patience 2). The real commands train, resize and evaluate; one
seed. What came out is kept in benchmarks/results/growing.json, which docs/evolving.md shows.

auc_behind_large_N   test AUC of the large table less that of one grown after N steps, or when done
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import grid, harness, ml1m

RESULT = grid.RESULTS / "growing.json"
_JOB = grid.ROOT / "examples" / "ml1m" / "two_lookups.toml"
_TIMES = 5
_EARLY = (400, 1200)
_SMALL = "158 kB"


class Runs:
    """Runs in a folder, each made once."""

    def __init__(self, folder: Path, epochs: int | None) -> None:
        self._folder = folder
        self._epochs = epochs

    def trained(self, name: str, budget: str) -> dict[str, Any]:
        """Trains a table of a budget from nothing; returns result.json."""
        settings: dict[str, grid.Value] = {
            "table.budget": budget,
            "run.dir": str(self._folder / name),
            "run.checkpoint_every": _EARLY[0],
            "run.keep": 1000,
            "train.threads": 1,
            "run.tensorboard": False,
        }
        if self._epochs:
            settings["train.epochs"] = self._epochs
        return self._train(name, _JOB, settings)

    def resized(self, source: str, name: str, checkpoint: str, *words: str) -> dict[str, Any]:
        """Makes another size of a run; returns its test metrics as it is."""
        out = self._folder / name
        self._muxtable(
            "resize", self._folder / source, *words, "--checkpoint", checkpoint, "--out", out
        )
        data = _JOB.parent / "data" / "test.parquet"
        return self._muxtable("eval", out, data, "--checkpoint", "last")

    def trained_on(self, name: str) -> dict[str, Any]:
        """Trains a run of another size to its end; returns result.json."""
        return self._train(name, self._folder / name / "job.toml", {})

    def _train(self, name: str, job: Path, settings: dict[str, grid.Value]) -> dict[str, Any]:
        words = [part for key, value in settings.items() for part in _setting(key, value)]
        self._muxtable("train", job, *words)
        found: dict[str, Any] = json.loads((self._folder / name / "result.json").read_text())
        harness.progress(f"{name}: {found['metrics']['test']['auc']:.4f}")
        return found

    def _muxtable(self, *words: object) -> dict[str, Any]:
        command = [sys.executable, "-m", "muxtable", *map(str, words), "--json"]
        done = subprocess.run(command, cwd=grid.ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def measure(runs: Runs) -> list[dict[str, Any]]:
    """Returns a line for each way to a large and to a small table."""

    def row(way: str, result: dict[str, Any]) -> dict[str, Any]:
        found = {"way": way, "auc": result["metrics"]["test"]["auc"]}
        return found | {"bytes": result["table"]["parameter_bytes"], "steps": result["steps"]}

    small = runs.trained("small", _SMALL)
    rows = [row("never", small)]
    for place in (*map(str, _EARLY), "last"):
        name = f"grown-{place}"
        runs.resized("small", name, place, "--times", str(_TIMES))
        rows.append(
            row(f"after {place} steps" if place != "last" else "when done", runs.trained_on(name))
        )
    size = rows[-1]["bytes"]
    large = runs.trained("large", f"{size} B")
    rows.append(row("large from the start", large))
    at_once = runs.resized("large", "folded", "best", "--fold", str(_TIMES))
    folded = row("the large one folded, then trained on", runs.trained_on("folded"))
    rows.append({"way": "the large one folded, at once", "auc": at_once["auc"], "steps": None})
    rows[-1]["bytes"] = folded["bytes"]
    return [*rows, folded]


def main() -> None:
    """Measures, keeps what came out, and prints the table or its JSON."""
    options = harness.start("growing", __doc__, threads=1)
    ml1m.prepare()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Runs(Path(folder), 2 if options.quick else None))
    aucs = {row["way"]: row["auc"] for row in rows}
    ratios = {
        f"auc_behind_large_{way.removeprefix('after ').split()[0]}": aucs["large from the start"]
        - auc
        for way, auc in aucs.items()
        if way.startswith(("after", "when"))
    }
    if not options.quick:
        RESULT.write_text(json.dumps({"commit": harness.commit(), "rows": rows}, indent=1) + "\n")
    harness.finish(options, ratios, rows)


def _setting(key: str, value: grid.Value) -> list[str]:
    return ["--set", f"{key}={json.dumps(value)}"]


if __name__ == "__main__":
    main()
