"""What `muxtable inspect --report` looks at, how its figures are gathered, and what it prints."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from features.errors import ConfigError
from launch.console import Column, Output, facts, share_text, table
from launch.progress import RunProgress
from launch.targets import open_rows, parse_checkpoint

if TYPE_CHECKING:
    from features.parquet import Dataset
    from trainer.inspection import Inspection, ModelFacts, Subject
    from trainer.run import Run

_NO_RUN = "Only a run has the model and the settings for this: give the folder of the run."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked for on the command line."""

    path: Path
    report: Path
    data: str | None
    most_rows: int | None
    checkpoint: str


def write_inspection(question: Question, output: Output) -> dict[str, Any]:
    """Inspects a run, a checkpoint or a version, writes the page, and returns the figures.

    Nothing is written where anything is wrong.
    """
    from storage.fsops import translated
    from trainer.inspection_report import render
    from trainer.page import write_page

    folder = question.report.resolve().parent
    if not folder.is_dir() or question.report.is_dir():
        raise ConfigError(
            f'"{question.report}" is no file that could be written', "name one in a folder there is"
        )
    found = _inspect(question, output)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = f"Written by muxtable inspect with Python {platform.python_version()} on {now}."
    with translated(f"write {question.report.name}", folder):
        write_page(question.report, render(found, footer))
    return {"report": str(question.report), **found.to_json()}


def render_inspection(console: Console, document: dict[str, Any]) -> None:
    """Draws the figures for a person who has the page for the rest."""
    rows: list[tuple[str, Any]] = [
        ("model of", f"step {document['step']:,}"),
        ("table", f"{document['rows']:,} rows of width {document['width']}"),
        ("measured on", f"{document['data_rows']:,} rows of {document['data']}"),
    ]
    rows += [
        (
            f"rows of {region['region']}",
            f"{share_text(region['used'] / region['rows'])} read; the hottest tenth gets "
            f"{share_text(region['top_reads'][-1])} of the reads",
        )
        for region in document["regions"]
        if region["kind"] != "exact"
    ]
    angles = document["gradient_angles"]
    if "mean" in angles:
        rows.append(("angle of readers", f"{angles['mean']:.1f} degrees on average"))
    rows.append(("report", document["report"]))
    console.print(facts(document["name"], rows))
    worth = {each["feature"]: each for each in document["worth"].get("features", ())}
    collisions = {each["feature"]: each for each in document["collisions"]}
    heads = [
        Column("feature", right=False),
        Column("values"),
        Column("co-residents"),
        Column("in all"),
    ]
    heads += [Column("own reads"), Column("AUC lost without it")]
    lines = []
    for name in {**collisions, **worth}:
        one, lost = collisions.get(name), worth.get(name)
        cells = ["", "-", "-", "-"]
        if one is not None:
            cells = [
                f"{one['values']:,}",
                f"{one['within']['values']:.3g}",
                share_text(one["in_all_lookups"]["values"]),
                share_text(one["own_reads"]),
            ]
        gain = "" if lost is None else f"{lost['auc_loss']:+.5f} +- {lost['error']:.5f}"
        lines.append([name, *cells, gain])
    console.print(table("features", heads, lines))
    if "missing" in document["worth"]:
        console.print(document["worth"]["missing"])


def _inspect(question: Question, output: Output) -> Inspection:
    from storage import chain
    from storage.bundle import open_bundle
    from storage.snapshot import open_snapshot
    from trainer.inspection import ModelFacts, checkpoint_subject, snapshot_subject

    path = question.path
    if not (path / "manifest.json").exists():
        return _inspect_run(question, output)
    if question.data is None:
        raise ConfigError(
            f"{path} is no run, and does not say which data it is for",
            "name Parquet files with --data FILES, or give the folder of the run",
        )
    dataset = open_rows(question.data)
    with open_bundle(path, verify=False) as bundle:
        is_snapshot = bundle.manifest.kind == "snapshot"
    opened: Any = open_snapshot if is_snapshot else chain.open_checkpoint
    subject_of: Any = snapshot_subject if is_snapshot else checkpoint_subject
    with opened(path, "lazy") as found:
        model = ModelFacts.missing(_NO_RUN)
        return _measured(question, subject_of(found), dataset, question.data, model, None)


def _inspect_run(question: Question, output: Output) -> Inspection:
    from trainer.inspection import checkpoint_subject
    from trainer.run import Run
    from trainer.saving import open_checkpoint

    run = Run.open(question.path)
    data = "data.train" if question.data is None else question.data
    with (
        open_checkpoint(run.checkpoints, parse_checkpoint(question.checkpoint), "lazy") as found,
        RunProgress(output) as progress,
    ):
        subject = replace(checkpoint_subject(found), name=run.path.resolve().name)
        dataset = _files(run, question.data, "train")
        assert dataset is not None  # noqa: S101  every job has training data
        model = _model_facts(run, subject.step, question, progress)
        progress.stage("values", None)
        return _measured(question, subject, dataset, data, model, run.job.table.init_scale)


def _model_facts(run: Run, step: int, question: Question, progress: RunProgress) -> ModelFacts:
    """Runs the model on validation data, test data where there is none, or the files named."""
    from trainer.evaluate import load_model
    from trainer.inspection import ModelFacts
    from trainer.inspection_worth import MOST_ROWS

    dataset = _files(run, question.data, "valid") or _files(run, question.data, "test")
    if dataset is None:
        return ModelFacts.missing("The job has neither validation nor test data.")
    label = run.job.data.label
    if label not in dataset.schema.names:
        return ModelFacts.missing(f'The rows have no label: there is no column "{label}".')
    most_rows = MOST_ROWS if question.most_rows is None else question.most_rows
    # Twice: for the means, and for the scores.
    progress.stage("worth", 2 * min(most_rows, dataset.num_rows))
    return ModelFacts.measure(load_model(run, step), dataset, most_rows, progress.evaluated)


def _files(run: Run, data: str | None, part: str) -> Dataset | None:
    """Opens the files named, or those of a part of the job; None where it has no such part."""
    from features.parquet import open_dataset

    if data is not None:
        return open_rows(data)
    patterns = getattr(run.job.data, part)
    return None if patterns is None else open_dataset(patterns, run.base)


def _measured(
    question: Question,
    subject: Subject,
    dataset: Dataset,
    data: str,
    model: ModelFacts,
    init_scale: float | None,
) -> Inspection:
    from trainer.inspection import inspect
    from trainer.inspection_values import MOST_ROWS

    most_rows = MOST_ROWS if question.most_rows is None else question.most_rows
    return inspect(subject, dataset, data, model=model, init_scale=init_scale, most_rows=most_rows)
