"""What the arguments of commands stand for: a job's run folder, a checkpoint, files of rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from features.errors import ConfigError

if TYPE_CHECKING:
    from features.parquet import Dataset
    from trainer.job import Job

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run (run.dir).")]
Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint", metavar="best|last|STEP", help="Which of the run's checkpoints to use."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job file (repeatable)."),
]
JobPath = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (TOML).")]


def run_folder(job: Job, job_path: Path) -> Path:
    """Returns where a job's run lies: run.dir, or runs/JOB beside the job file."""
    folder = job_path.parent / (job.run.dir or f"runs/{job_path.stem}")
    return Path(os.path.normpath(folder))


def parse_checkpoint(text: str) -> str | int:
    """Returns "best", "last" or a step; raises ConfigError for anything else."""
    if text in ("best", "last"):
        return text
    if text.isdigit():
        return int(text)
    raise ConfigError(f'--checkpoint "{text}" is none', "write best, last or a step's number")


def open_rows(pattern: str) -> Dataset:
    """Opens the Parquet files an argument names, relative to the current folder."""
    from features.parquet import open_dataset

    return open_dataset(pattern, Path.cwd())
