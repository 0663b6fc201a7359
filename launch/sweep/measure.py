"""One point in one process: a training with one thread, and what its table is worth and takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import CodecError, PlanError, TrainingError
from launch.failures import describe

if TYPE_CHECKING:
    from storage.codecs import Codec
    from trainer.export import Export
    from trainer.job import Job
    from trainer.run import Run

WHOLE = "float32"
_PARTS = ("valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A point as a worker gets it; all paths are absolute."""

    job: Job
    base: Path
    """Where the job's relative paths start."""
    folder: Path | None
    """Where it is trained, and goes on after a kill; None for a folder that goes with the task."""
    codecs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a point ended: with what is known by codec, or with an error that is not its own.

    A mistake is of the job or the data, so that every other point would make it too.
    """

    by_codec: Mapping[str, Mapping[str, Any]]
    """Fields of `launch.sweep.record.Record`."""
    what: str = ""
    fix: str = ""
    is_mistake: bool = False
    is_own: bool = True
    """Whether the point itself says so: it is not tried again at once."""


def run_point(assignment: Assignment) -> Outcome:
    """Trains and measures a point; never raises, since errors do not cross a cluster well."""
    try:
        with ExitStack() as stack:
            folder = assignment.folder
            if folder is None:
                scratch = tempfile.TemporaryDirectory(prefix="muxtable-sweep-")
                folder = Path(stack.enter_context(scratch)) / "run"
            return Outcome(by_codec=measure(assignment, folder))
    except (PlanError, TrainingError) as exc:
        status = "infeasible" if isinstance(exc, PlanError) else "failed"
        fields = {"status": status, "reason": exc.what}
        return Outcome(by_codec=dict.fromkeys((WHOLE, *assignment.codecs), fields))
    except Exception as exc:  # noqa: BLE001  described to whoever waits for this point
        failure = describe(exc)
        return Outcome(
            by_codec={},
            what=failure.what,
            fix=failure.fix,
            is_mistake=failure.exit_code == PlanError.exit_code,
        )


def measure(assignment: Assignment, folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what is measured of a point, by codec: the trained rows as float32 first."""
    from trainer.export import Export
    from trainer.train import train

    started = time.monotonic()
    run = train(assignment.job, folder, assignment.base).run
    # It is there: nothing asks this training to stop.
    result = run.result() or {}
    found: dict[str, dict[str, Any]] = {}
    with Export(run) as export:
        codecs, refused = _codecs(export, assignment.codecs)
        worth = _worth(run, result["metrics"], export, codecs)
        for text, codec in codecs.items():
            found[text] = {"status": "done", **worth[text], **_sizes(export, codec, folder)}
    common = {**_facts(run, result), "wall_s": round(time.monotonic() - started, 3)}
    measured = {text: {**common, **fields} for text, fields in found.items()}
    return measured | {
        text: {"status": "infeasible", "reason": reason} for text, reason in refused.items()
    }


def _facts(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of itself, whatever codec its rows are stored by."""
    from trainer.journal import read_journal

    speeds = [
        line["samples_per_s"] for line in read_journal(run.journal) if line["kind"] == "train"
    ]
    return {
        "best_step": result["best_step"],
        "steps": result["steps"],
        "epochs": result["epochs"],
        "optimizer": run.job.table.optimizer,
        "rows": result["table"]["rows"],
        "row_width": result["table"]["width"],
        "table_bytes": result["table"]["parameter_bytes"],
        "step_s": run.job.train.batch_size / statistics.median(speeds) if speeds else None,
        "training_s": result["time"]["training_s"],
        "peak_bytes": result["memory"]["peak_bytes"],
    }


def _codecs(export: Export, texts: Sequence[str]) -> tuple[dict[str, Codec], dict[str, str]]:
    """Returns the codecs that suit the table, and of the others why they do not."""
    from storage.codecs import codec_named
    from storage.snapshot_writer import check_codec

    codecs: dict[str, Codec] = {}
    refused = {}
    for text in dict.fromkeys((WHOLE, *texts)):
        try:
            codec = export.codec(codec_named(text))
            check_codec(export.layout, codec)
        except CodecError as exc:
            refused[text] = exc.what
        else:
            codecs[text] = codec
    return codecs, refused


def _worth(
    run: Run, metrics: Mapping[str, Any], export: Export, codecs: Mapping[str, Codec]
) -> dict[str, dict[str, Any]]:
    """Returns the metrics by codec, each on the rows that its snapshot will give."""
    from features.parquet import open_dataset
    from trainer.choose_codec import Subject, try_codecs
    from trainer.evaluate import load_model

    worth: dict[str, dict[str, Any]] = {text: {} for text in codecs}
    for part, each in metrics.items():
        worth[WHOLE] |= _named(part, each["auc"], each["log_loss"])
    worth[WHOLE]["relative_error"] = 0.0
    others = [text for text in codecs if text != WHOLE]
    if not others:
        return worth
    trained = load_model(run)
    for part in _PARTS:
        pattern = getattr(run.job.data, part)
        if pattern is None:
            continue
        subject = Subject(
            trained=trained,
            read_rows=export.read_rows,
            make=lambda factory: codecs[factory.text],
            dataset=open_dataset(pattern, run.base),
            scratch=run.path,
            buffer=run.job.train.metrics_buffer,
        )
        for trial in try_codecs(subject, others):
            if trial.codec != WHOLE:
                worth[trial.codec] |= _named(part, trial.auc, trial.log_loss)
                worth[trial.codec]["relative_error"] = trial.relative_error
    return worth


def _named(part: str, auc: float | None, log_loss: float | None) -> dict[str, float | None]:
    return {f"auc_{part}": auc, f"log_loss_{part}": log_loss}


def _sizes(export: Export, codec: Codec, folder: Path) -> dict[str, int]:
    """Returns what a version takes, out of one that is written and removed again."""
    from storage.bundle import open_bundle
    from storage.snapshot import CODEC_PREFIX, ROWS
    from storage.versions import version_name

    sizes = dict.fromkeys(("rows_bytes", "codebook_bytes", "dictionary_bytes"), 0)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        written = export.write(Path(scratch), version_name(export.step), codec)
        with open_bundle(written.path, verify=False) as bundle:
            manifest = bundle.manifest
    for tensor in manifest.tensors:
        size = tensor.num_rows * tensor.row_bytes
        if tensor.name == ROWS:
            sizes["rows_bytes"] += size
        elif tensor.name.startswith(CODEC_PREFIX):
            sizes["codebook_bytes"] += size
        else:
            sizes["dictionary_bytes"] += size
    tower = sum(file.size for file in manifest.files if file.name.endswith(".onnx"))
    return {**sizes, "tower_bytes": tower, "served_bytes": written.size_bytes}
