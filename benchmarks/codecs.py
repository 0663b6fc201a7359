"""What the codecs cost two trained models: bytes against AUC, and how fast rows go in and out.

    python -m benchmarks.codecs [--quick] [--json] [--threads N]

Trains the demo's flights and, where a copy is at hand, ML-1M (two narrow rows a value) with the
real command, tries every codec on the test rows, and draws build/codecs-NAME.png. Speeds are those
of 200,000 of the model's rows. The last table gathers random rows out of a table that no cache
holds, beside numpy and FBGEMM.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.ml1m import JOBS, SOURCE, prepare
from features.parquet import open_dataset
from launch.demo.flights import read_flights, split_by_days, write_split
from launch.demo.job import demo_job
from native import codecs as kernels
from storage.codecs import Codec, CodecFactory, codec_named
from trainer.choose_codec import Subject, Trial, candidates, try_codecs
from trainer.codec_chart import draw_trials
from trainer.evaluate import load_model
from trainer.export import Export
from trainer.run import Run

BUDGET = "1581 kB"
SPEED_ROWS = 200_000
CHARTS = harness.ROOT / "build"
# What each is promised to lose at most.
PROMISES = {"int8": 1e-4, "float8": 1e-4, "int4": 1e-3}


def train(job: Path, run: Path, settings: dict[str, object]) -> Run:
    """Trains a job with the real command."""
    command = [sys.executable, "-m", "muxtable", "train", str(job), "--quiet"]
    settings = {"run.dir": json.dumps(str(run)), "run.tensorboard": "false", **settings}
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return Run.open(run)


def train_flights(folder: Path, settings: dict[str, object], *, quick: bool) -> Run:
    """Trains the demo's job on whole days drawn at random."""
    parts = split_by_days(read_flights().table)
    if quick:
        parts = [part.take(np.arange(0, part.num_rows, 16)) for part in parts]
    write_split(parts, folder)
    job = folder / "job.toml"
    job.write_text(demo_job(".", "run"))
    return train(job, folder / "run", settings)


def train_ml1m(folder: Path, settings: dict[str, object]) -> Run:
    """Trains two lookups of width 15."""
    prepare()
    return train(
        JOBS / "two_lookups.toml", folder / "run", {"table.budget": f'"{BUDGET}"', **settings}
    )


def try_all(run: Run, scratch: Path, *, quick: bool) -> list[tuple[Trial, Codec, Any]]:
    """Returns the trials of all codecs, with each codec and rows of the table to time it on."""
    with Export(run) as export:
        made: dict[str, Codec] = {}

        def make(factory: CodecFactory) -> Codec:
            made[factory.text] = export.codec(factory)
            return made[factory.text]

        subject = Subject(
            trained=load_model(run),
            read_rows=export.read_rows,
            make=make,
            dataset=open_dataset(run.job.data.test, run.base),
            scratch=scratch,
            buffer=run.job.train.metrics_buffer,
        )
        texts = candidates(subject.layout)
        texts = ("int8", "int4", "float8") if quick else texts
        on_codec: Callable[[str], None] = lambda text: harness.progress(f"  {text}")  # noqa: E731
        trials = list(try_codecs(subject, texts, on_codec))
        rows = export.read_rows(0, export.layout.rows)
        sample = np.resize(rows, (2000 if quick else SPEED_ROWS, rows.shape[1]))
        return [(trial, made[trial.codec], sample) for trial in trials]


def speeds(codec: Codec, rows: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """Returns millions of rows a second in and out."""
    raw, out = codec.encode(rows), np.empty_like(rows)
    times = harness.compare(
        {"encode": lambda: codec.encode(rows), "decode": lambda: codec.decode(raw, out)}, repeats, 1
    )
    return {f"{name}_mrows_s": len(rows) / seconds / 1e6 for name, seconds in times.items()}


def gather_figures(num_rows: int, num_lookups: int, repeats: int) -> list[dict[str, Any]]:
    """Times random rows of width 32 out of a table of int8 rows: raw, and as floats."""
    import torch

    rng = np.random.default_rng(0)
    codec = codec_named("int8")(32)
    block = codec.encode(rng.normal(size=(100_000, 32)).astype(np.float32))
    table = np.resize(block, (num_rows, codec.row_bytes))
    sets = [rng.integers(0, num_rows, num_lookups) for _ in range(50)]
    raw = np.empty((num_lookups, codec.row_bytes), np.uint8)
    out = np.empty((num_lookups, 32), np.float32)
    turn = iter(range(10**9))

    def rows() -> NDArray[np.int64]:
        return sets[next(turn) % len(sets)]

    contenders: dict[str, Callable[[], object]] = {
        "raw, ours": lambda: kernels.gather_raw(table, rows(), raw),
        "raw, numpy": lambda: np.take(table, rows(), axis=0),
        "floats, ours": lambda: codec.gather(table, rows(), out),
        "floats, gathered raw and decoded": lambda: (
            kernels.gather_raw(table, rows(), raw),
            codec.decode(raw, out),
        ),
    }
    if _has_fbgemm():
        tensor, dequantise = torch.from_numpy(table), _fbgemm_dequantise()
        contenders["floats, torch and FBGEMM"] = lambda: dequantise(
            tensor.index_select(0, torch.from_numpy(rows()))
        )
    times = harness.compare(contenders, repeats)
    return [
        {"gather": name, "microseconds": seconds * 1e6, "mlookups_s": num_lookups / seconds / 1e6}
        for name, seconds in times.items()
    ]


def _has_fbgemm() -> bool:
    try:
        import fbgemm_gpu  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def _fbgemm_dequantise() -> Callable[[Any], Any]:
    import torch

    return torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat  # type: ignore[no-any-return]


def main() -> None:
    """Prints the table of codecs on both models, and the gather beside others."""
    import torch

    options = harness.start("codecs", __doc__, threads=1)
    torch.set_num_threads(options.threads)
    settings: dict[str, object] = {"train.threads": options.threads}
    settings |= {"train.epochs": 1} if options.quick else {}
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "flights").mkdir()
        harness.progress("flights")
        runs = {"flights": train_flights(folder / "flights", settings, quick=options.quick)}
        if SOURCE.exists() and not options.quick:
            harness.progress("ml1m")
            runs["ml1m"] = train_ml1m(folder / "ml1m", settings)
        for model, run in runs.items():
            tried = try_all(run, folder, quick=options.quick)
            CHARTS.mkdir(exist_ok=True)
            trials = [trial for trial, _, _ in tried]
            draw_trials(trials, CHARTS / f"codecs-{model}.png", f"{model}: bytes against AUC")
            for trial, codec, sample in tried:
                measured = speeds(codec, sample, 3 if options.quick else 7)
                rows.append({"model": model, **asdict(trial), **measured})
                if trial.codec in PROMISES:
                    ratios[f"auc_loss_{trial.codec}_{model}"] = trial.auc_loss
    sizes = (10_000, 1000, 3) if options.quick else (10_000_000, 26 * 256, 301)
    gathered = gather_figures(*sizes)
    time = {row["gather"]: row["microseconds"] for row in gathered}
    ratios["raw_vs_numpy"] = time["raw, numpy"] / time["raw, ours"]
    ratios["floats_vs_raw"] = time["floats, ours"] / time["raw, ours"]
    if "floats, torch and FBGEMM" in time:
        ratios["floats_vs_fbgemm"] = time["floats, torch and FBGEMM"] / time["floats, ours"]
    harness.finish(options, ratios=ratios, rows=[*rows, *gathered])


if __name__ == "__main__":
    main()
