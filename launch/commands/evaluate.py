"""`muxtable eval`: the metrics of a trained model on rows with labels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from features.errors import ConfigError
from launch.console import Output
from launch.environment import is_first_rank
from launch.joined import joined
from launch.progress import RunProgress
from launch.targets import Checkpoint, RunPath, open_rows, parse_checkpoint

if TYPE_CHECKING:
    from features.parquet import Dataset
    from trainer.run import Run


def command(
    ctx: typer.Context,
    run_path: RunPath,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="Parquet files; without it the run's test files."),
    ] = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Print the metrics of a trained model on Parquet files with labels."""
    from launch.commands.train import metrics_table

    output: Output = ctx.obj
    which = parse_checkpoint(checkpoint)
    from trainer.evaluate import evaluate, load_model
    from trainer.run import Run
    from trainer.totals import Together

    run = Run.open(run_path)
    name, dataset = _rows_of(run, data)
    with (
        joined(run.job.train) as ranks,
        tempfile.TemporaryDirectory() as scratch,
        RunProgress(output) as progress,
    ):
        trained = load_model(run, which, ranks)
        dataset.check(trained.feature_set, trained.model.layout.key_classes)
        progress.stage("eval", dataset.num_rows)
        metrics = evaluate(
            trained.model,
            dataset,
            trained.feature_set,
            trained.profile,
            scratch=Path(scratch),
            buffer=run.job.train.metrics_buffer,
            on_rows=progress.evaluated,
            together=Together(ranks, lambda: None),
        )
    if not is_first_rank():
        return
    document = {"run": str(run_path), "data": name, "step": trained.step, **metrics.to_json()}
    title = f"{name} by the model of step {trained.step:,}"
    output.result(document, lambda console: console.print(metrics_table(title, {"": metrics})))


def _rows_of(run: Run, data: str | None) -> tuple[str, Dataset]:
    from features.parquet import open_dataset

    if data is not None:
        return data, open_rows(data)
    for part in ("test", "valid"):
        patterns = getattr(run.job.data, part)
        if patterns is not None:
            return f"data.{part}", open_dataset(patterns, run.base)
    raise ConfigError(
        f"{run.path}: its job has neither data.test nor data.valid",
        "name the files: muxtable eval RUN DATA",
    )
