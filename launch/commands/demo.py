"""`muxtable demo`: from a data set on this machine to trained models, reports and a service."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Output

if TYPE_CHECKING:
    import pyarrow as pa

# How the flights are split -> what the table of metrics calls it.
SPLITS = {"days": "random days", "time": "last weeks of the year"}
# An aircraft that shares a row with another one.
_SHOWN_FEATURE, _SHOWN_VALUE = "tailnum", "N353JB"


def command(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Option("--dir", help="Folder for data/ and runs/; made where it is missing.")
    ] = Path(),
) -> int | None:
    """Predict late flights from New York: prepare data, train, evaluate, export, serve, look up."""
    output: Output = ctx.obj
    started = time.monotonic()
    jobs = {split: folder / "data" / "flights" / split / "job.toml" for split in SPLITS}
    runs = {split: folder / "runs" / f"flights-{split}" for split in SPLITS}
    for run in runs.values():
        _refuse_foreign(run)
    cancelled = _prepare(folder, jobs, output)
    trained = {}
    for split, job in jobs.items():
        outcome = _train(split, job, runs[split], output)
        if isinstance(outcome, int):
            return outcome  # it has said why
        trained[split] = outcome
    from launch.commands.lookup import look_up
    from launch.targets import open_rows

    rows = open_rows(str(jobs["days"].parent / "train.parquet"))
    seen = look_up(runs["days"], _SHOWN_FEATURE, [_SHOWN_VALUE], rows, "best")
    versions = folder / "runs" / "flights-versions"
    served = _serve(runs["days"], versions, seen, output)
    document = {
        "cancelled": cancelled,
        "splits": trained,
        "lookup": seen,
        "served": served,
        "seconds": round(time.monotonic() - started, 1),
    }
    output.result(document, lambda console: _render(console, document, jobs))
    return None


def _refuse_foreign(run: Path) -> None:
    """The demo trains anew each time, so it replaces its own runs, and nothing else."""
    from trainer.run import Run

    if run.is_dir() and any(run.iterdir()):
        from launch.demo.flights import LABEL

        if not (run / "job.json").exists() or Run.open(run).job.data.label != LABEL:
            raise ConfigError(f"{run} is no run of the demo", "move it, or give another --dir")


def _prepare(folder: Path, jobs: dict[str, Path], output: Output) -> int:
    from launch.demo.flights import read_flights, split_by_days, split_by_time, write_split
    from launch.demo.job import demo_job

    flights = read_flights()
    output.note(
        f"{flights.table.num_rows:,} flights of 2013 from New York; {flights.num_cancelled:,} "
        "cancelled or diverted ones, which never arrived, are left out"
    )
    splits: dict[str, list[pa.Table]] = {
        "days": split_by_days(flights.table),
        "time": split_by_time(flights.table),
    }
    for split, job in jobs.items():
        rows = write_split(splits[split], job.parent)
        job.write_text(demo_job(".", f"../../../runs/flights-{split}"), encoding="utf-8")
        shown = ", ".join(f"{n:,} {part}" for part, n in rows.items())
        output.note(f"{job.parent.relative_to(folder)}: {SPLITS[split]}, {shown} rows")
    return flights.num_cancelled


def _serve(run: Path, versions: Path, seen: dict[str, Any], output: Output) -> dict[str, Any]:
    """Exports the model as int8, serves it for a moment, and looks the same value up over gRPC."""
    from launch.remote_lookup import look_up_at
    from serving.client import Client
    from serving.process import Service
    from serving.settings import ServeSettings

    if versions.exists():
        shutil.rmtree(versions)
    words = ["export", str(run), "--out", str(versions), "--codec", "int8", "--json", "--quiet"]
    output.note(f"\nserving: muxtable export {run} --out {versions} --codec int8")
    done = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-m", "muxtable", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    exported = json.loads(done.stdout)
    output.note(f"serving: muxtable serve {versions}")
    ports: dict[str, Any] = {"port": 0, "health_port": None, "metrics_port": None}
    with Service(ServeSettings(directory=versions, **ports)) as service:
        address = f"127.0.0.1:{service.port}"
        output.note(f"serving: muxtable lookup --server {address} {_SHOWN_FEATURE} {_SHOWN_VALUE}")
        with Client(address, timeout_s=30.0) as client:
            found = look_up_at(client, address, _SHOWN_FEATURE, [_SHOWN_VALUE])
    apart = max(abs(a - b) for a, b in zip(found["vector"], seen["vector"], strict=True))
    return {
        "version": exported["version"],
        "codec": exported["codec"],
        "size_bytes": exported["size_bytes"],
        "largest_difference": apart,
    }


def _train(split: str, job_path: Path, run: Path, output: Output) -> dict[str, Any] | int:
    """Runs `muxtable train` in a process of its own; returns its document, or a failed exit code.

    As a person would, and so that the peak of memory in the report is this training's alone.
    """
    if run.exists():
        shutil.rmtree(run)
    output.note(f"\n{SPLITS[split]}: muxtable train {job_path}")
    words = ["train", str(job_path), "--json", *(["--quiet"] if output.quiet else [])]
    with (
        subprocess.Popen(  # noqa: S603 - our own interpreter and words
            [sys.executable, "-m", "muxtable", *words], stdout=subprocess.PIPE, text=True
        ) as child,
        _passed_on(child),
    ):
        text, _ = child.communicate()
    return json.loads(text) if child.returncode == 0 else child.returncode


@contextmanager
def _passed_on(child: subprocess.Popen[str]) -> Iterator[None]:
    """Leaves Ctrl-C to the child, which gets it too, and sends it SIGTERM: it saves and ends."""
    before = [
        signal.signal(signal.SIGINT, lambda *_: None),
        signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number)),
    ]
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def _render(console: Console, document: dict[str, Any], jobs: dict[str, Path]) -> None:
    from launch.commands.lookup import render_lookup
    from launch.commands.train import metrics_table
    from trainer.metrics import Metrics

    splits = document["splits"]
    metrics = {
        SPLITS[split]: Metrics.from_json(outcome["metrics"]["test"])
        for split, outcome in splits.items()
    }
    console.print()
    console.print(metrics_table("late arrivals (> 15 minutes) on days never trained on", metrics))
    render_lookup(console, document["lookup"])
    served = document["served"]
    console.print(
        f"served  {served['version']} as {served['codec']}, {served['size_bytes']:,} bytes: the"
        f" same vector over gRPC to {served['largest_difference']:.1g}",
        soft_wrap=True,
    )
    for split, outcome in splits.items():
        console.print(f"report  {outcome['report']}  ({SPLITS[split]})", soft_wrap=True)
    job = jobs["days"]
    console.print(f"job     {job}  (edit a copy, then: muxtable train COPY)", soft_wrap=True)
    console.print(f"done in {document['seconds']:.0f} s")
