"""`muxtable predict`: a score for every row, one Parquet file for each file of the input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from launch.console import Column, Output, table
from launch.progress import RunProgress
from launch.targets import Checkpoint, RunPath, open_rows, parse_checkpoint


def command(
    ctx: typer.Context,
    run_path: RunPath,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Parquet files to score.")],
    out: Annotated[Path, typer.Option(help="Folder the scored files are written into.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column to copy beside the score (repeatable)."),
    ] = None,
    checkpoint: Checkpoint = "best",
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Score Parquet files: same files, rows and order, column `score`; no labels needed."""
    output: Output = ctx.obj
    which = parse_checkpoint(checkpoint)
    from launch.scoring import Scoring
    from trainer.run import Run

    run = Run.open(run_path)
    dataset = open_rows(data)
    scoring = Scoring.prepare(dataset, out, tuple(keep or ()), force=force)
    from trainer.evaluate import load_model, predict

    trained = load_model(run, which)
    feature_set = replace(trained.feature_set, label=None, weight=None)
    dataset.check(feature_set, trained.model.layout.key_classes)
    with RunProgress(output) as progress:
        progress.stage("score", dataset.num_rows)
        written = scoring.write(
            predict(trained.model, dataset, feature_set, trained.profile),
            on_rows=progress.evaluated,
        )
    document = {
        "run": str(run_path),
        "step": trained.step,
        "rows": dataset.num_rows,
        "files": [
            {"input": f.source, "path": str(f.path), "rows": f.rows, "mean_score": f.mean_score}
            for f in written
        ],
    }
    columns = [Column("file", right=False), Column("rows"), Column("mean score")]
    rows = [(f.path, f"{f.rows:,}", _mean(f.mean_score)) for f in written]
    title = f"scored {dataset.num_rows:,} rows by the model of step {trained.step:,}"
    output.result(document, lambda console: console.print(table(title, columns, rows)))


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
