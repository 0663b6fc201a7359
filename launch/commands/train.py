"""`muxtable train`: trains a job, or goes on with its run, and writes the report."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from features.schema import FeatureSet
from launch.console import Column, Output, table
from launch.environment import is_first_rank
from launch.joined import joined
from launch.progress import RunProgress
from launch.settings import load_job
from launch.targets import JobPath, Overrides, run_folder
from launch.training import train_and_report
from trainer.order import rank_streams
from trainer.toml import toml_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.job import Job
    from trainer.metrics import Metrics


def command(
    ctx: typer.Context,
    job_path: JobPath,
    overrides: Overrides = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes to train in, as workers of a Ray cluster.")
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A running Ray cluster; `local` starts one. [default: RAY_ADDRESS, else local]",
        ),
    ] = None,
    parent: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN|CHECKPOINT", help="Carry on from a trained run, in a new one."
        ),
    ] = None,
) -> int | None:
    """Train a job, or go on where its run was stopped; ends with metrics and a report."""
    output: Output = ctx.obj
    if parent is not None:
        overrides = [*(overrides or ()), from_parent(parent, job_path)]
    job = load_job(job_path, overrides or ())
    # Before torch is imported: most mistakes are answered at once.
    FeatureSet.build(job.data, job.features, job.feature, job.table)
    rank_streams(streams=job.data.streams, rank=0, world_size=workers)
    folder = run_folder(job, job_path)
    if workers > 1 or address is not None:
        trained = _train_on_workers(
            job, job_path, folder, output, overrides or (), workers, address
        )
    else:
        trained = train_job(job, job_path, folder, output, overrides or ())
    if isinstance(trained, int):
        output.note(f"stopped after a checkpoint; `muxtable train {job_path}` goes on from there")
        return 128 + trained
    if is_first_rank():
        output.result(trained, lambda console: render_trained(console, trained))
    return None


def train_job(
    job: Job, job_path: Path, folder: Path, output: Output, overrides: Sequence[str] = ()
) -> dict[str, Any] | int:
    """Trains and writes the report; returns what a machine wants to know, or the stop signal."""
    from trainer.signals import StopSignals

    command = command_line(job_path, overrides)
    with joined(job.train) as ranks, StopSignals() as stop, RunProgress(output) as progress:
        return train_and_report(
            job,
            folder,
            job_path.parent,
            command,
            ranks=ranks,
            progress=progress,
            stop_requested=stop,
        )


def _train_on_workers(
    job: Job,
    job_path: Path,
    folder: Path,
    output: Output,
    overrides: Sequence[str],
    workers: int,
    address: str | None,
) -> dict[str, Any] | int:
    if "RANK" in os.environ:
        raise ConfigError(
            f"--workers {workers} inside torchrun: this process is a rank already",
            "leave --workers and --address out; torchrun's --nproc-per-node says how many",
        )
    from launch.cluster.driver import Order, train_on_cluster

    command = command_line(job_path, overrides, workers)
    order = Order(job=job, folder=folder, base=job_path.parent, command=command, workers=workers)
    return train_on_cluster(order, address, output)


def from_parent(parent: Path, job_path: Path) -> str:
    """Returns the setting that a job carries on from a run, its path from the job file's folder."""
    path = os.path.relpath(parent.resolve(), job_path.parent.resolve())
    return f"run.parent={toml_value(path)}"


def command_line(job_path: Path, overrides: Sequence[str], workers: int = 1) -> str:
    """Returns the line that a report shows."""
    words = ["muxtable", "train", str(job_path)]
    for override in overrides:
        words += ["--set", override]
    return shlex.join([*words, "--workers", str(workers)] if workers > 1 else words)


def render_trained(console: Console, trained: dict[str, Any]) -> None:
    """Draws the outcome of a training for a person."""
    from trainer.metrics import Metrics

    metrics = {part: Metrics.from_json(tree) for part, tree in trained["metrics"].items()}
    if metrics:
        console.print()
        console.print(metrics_table("metrics of the best model", metrics))
    console.print(f"report  {trained['report']}", soft_wrap=True)


def metrics_table(title: str, metrics: Mapping[str, Metrics]) -> Any:
    """Returns the printed table of metrics: a row for each name."""
    columns = [
        Column("", right=False),
        *map(Column, ("rows", "positive", "AUC", "log loss", "norm. entropy", "calibration")),
    ]
    rows = [
        (
            name,
            f"{m.rows:,}",
            _text(m.positive_rate),
            _text(m.auc),
            _text(m.log_loss),
            _text(m.normalized_entropy),
            _text(m.calibration),
        )
        for name, m in metrics.items()
    ]
    return table(title, columns, rows)


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
