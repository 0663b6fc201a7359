"""`muxtable predict`: a score for every row, one Parquet file for each file of the input."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from launch.console import Column, Output, table
from launch.joined import joined
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
    from trainer.evaluate import load_model, predict

    with joined(run.job.train) as ranks, RunProgress(output) as progress:
        # Rank 0 alone writes; what is in its way must not stop the others half-way.
        scoring = ranks.together(
            lambda: Scoring.prepare(
                dataset, out, tuple(keep or ()), force=force or not ranks.is_first
            )
        )
        trained = load_model(run, which, ranks)
        feature_set = replace(trained.feature_set, label=None, weight=None)
        dataset.check(feature_set, trained.model.layout.key_classes)
        progress.stage("score", dataset.num_rows)
        predictions = predict(trained.model, dataset, feature_set, trained.profile, ranks)
        if not ranks.is_first:
            deque(predictions, maxlen=0)
            return
        written = scoring.write(predictions, on_rows=progress.evaluated)
        # What is left of the iterator are the calls the other ranks wait for.
        deque(predictions, maxlen=0)
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
