"""`muxtable submit`: sends a job to a Ray cluster and follows it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.schema import FeatureSet
from launch.console import Output
from launch.failures import INTERRUPTED
from launch.settings import load_job
from launch.targets import JobPath, Overrides

if TYPE_CHECKING:
    from launch.cluster.submission import Jobs


def command(
    ctx: typer.Context,
    job_path: JobPath,
    address: Annotated[
        str, typer.Option(metavar="URL", help="The cluster's dashboard: http://HOST:8265.")
    ],
    workers: Annotated[int, typer.Option(min=1, help="Processes to train in.")],
    overrides: Overrides = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Print the job's output until it ends.")
    ] = True,
) -> int | None:
    """Send a job to a Ray cluster; ends with the job's exit code."""
    output: Output = ctx.obj
    job = load_job(job_path, overrides or ())
    FeatureSet.build(job.data, job.features, job.feature, job.table)
    from launch.cluster.submission import Jobs, check_paths, entrypoint, files_of, stage

    check_paths(job)
    files = files_of(job, job_path.parent)
    jobs = Jobs(address)
    with tempfile.TemporaryDirectory(prefix="muxtable-job-") as folder:
        stage(job_path, files, Path(folder))
        line = entrypoint(job_path.name, workers, overrides or ())
        job_id = jobs.submit(Path(folder), line)
    output.note(f"{job_id}: {line}")
    if not follow:
        document = {"job": job_id, "status": "SUBMITTED"}
        output.result(document, lambda console: console.print(_hints(jobs, job_id), soft_wrap=True))
        return None
    return _follow(jobs, job_id, output)


def _follow(jobs: Jobs, job_id: str, output: Output) -> int:
    stream = sys.stderr if output.json else sys.stdout

    def write(piece: str) -> None:
        stream.write(piece)
        stream.flush()

    try:
        jobs.follow(job_id, write)
        ended = jobs.ended(job_id)
    except KeyboardInterrupt:
        output.note(f"\nthe job goes on without this command. {_hints(jobs, job_id)}")
        return INTERRUPTED
    document: dict[str, Any] = {
        "job": job_id,
        "status": ended.status,
        "exit_code": ended.exit_code,
    }
    if output.json:
        output.result(document, lambda _: None)
    elif ended.exit_code:
        output.warn(f"{job_id} ended as {ended.status}: {ended.message}")
    return ended.exit_code


def _hints(jobs: Jobs, job_id: str) -> str:
    where = f"--address {jobs.address} {job_id}"
    return (
        f"To see it: ray job logs --follow {where}; "
        f"to stop it, after a checkpoint: ray job stop {where}"
    )
