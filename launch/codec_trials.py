"""Codecs tried on a run's own rows of validation, for `muxtable export`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from features.errors import ConfigError
from launch.console import Column, size_text, table
from launch.progress import RunProgress
from launch.targets import open_rows

if TYPE_CHECKING:
    from features.parquet import Dataset
    from trainer.choose_codec import Trial
    from trainer.export import Export
    from trainer.run import Run

CHART = "codecs.png"


def try_all(
    export: Export, progress: RunProgress, which: str | int, data: str | None
) -> list[Trial]:
    """Returns a trial of every codec that suits the run's table."""
    from trainer.choose_codec import Subject, candidates, try_codecs
    from trainer.evaluate import load_model

    run = export.run
    dataset = _rows_of(run, data)
    trained = load_model(run, which)
    dataset.check(trained.feature_set, trained.model.layout.key_classes)
    with tempfile.TemporaryDirectory() as scratch:
        subject = Subject(
            trained=trained,
            read_rows=export.read_rows,
            make=export.codec,
            dataset=dataset,
            scratch=Path(scratch),
            buffer=run.job.train.metrics_buffer,
        )
        return list(
            try_codecs(
                subject,
                candidates(export.layout),
                on_codec=lambda text: progress.stage(text, dataset.num_rows),
                on_rows=progress.evaluated,
            )
        )


def draw(trials: Sequence[Trial], out: Path) -> Path:
    """Writes the picture of bytes against AUC into a folder; returns its path."""
    from trainer.codec_chart import draw_trials

    out.mkdir(parents=True, exist_ok=True)
    path = out / CHART
    draw_trials(trials, path, "what codecs cost")
    return path


def trials_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Returns trials as JSON objects."""
    return [asdict(trial) for trial in trials]


def render_trials(console: Console, document: dict[str, Any]) -> None:
    """Draws trials for a person, from large to small."""
    columns = [
        Column("codec", right=False),
        Column("row"),
        Column("table"),
        Column("bits a weight"),
        Column("error"),
        Column("AUC"),
        Column("AUC lost"),
    ]
    trials = sorted(document["codecs"], key=lambda each: -each["table_bytes"])
    rows = [
        (
            each["codec"],
            f"{each['row_bytes']:,} B",
            size_text(each["table_bytes"]),
            f"{each['bits_per_weight']:.2f}",
            f"{each['relative_error']:.1e}",
            f"{each['auc']:.5f}",
            f"{each['auc_loss']:+.5f}",
        )
        for each in trials
    ]
    console.print(table(f"codecs, step {document['step']:,}", columns, rows))
    console.print(f"  drawn in {document['chart']}", markup=False)


def _rows_of(run: Run, data: str | None) -> Dataset:
    from features.parquet import open_dataset

    if data is not None:
        return open_rows(data)
    if run.job.data.valid is None:
        raise ConfigError(
            f"{run.path}: its job has no data.valid to try codecs on",
            "name files with labels: --data FILES",
        )
    return open_dataset(run.job.data.valid, run.base)
