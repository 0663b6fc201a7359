"""A training and its report, in this process or as one of several ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sharding.ranks import Ranks
    from trainer.job import Job
    from trainer.progress import Progress


def train_and_report(
    job: Job,
    folder: Path,
    base: Path,
    command: str,
    *,
    ranks: Ranks,
    progress: Progress | None = None,
    stop_requested: Callable[[], int | None] = lambda: None,
) -> dict[str, Any] | int:
    """Returns what a machine wants to know (nothing on ranks but the first), or the stop signal.

    `command` is the line that the report shows.
    """
    from trainer.report_data import report_run
    from trainer.train import train

    result = train(job, folder, base, progress=progress, stop_requested=stop_requested, ranks=ranks)
    if result.signal is not None:
        return result.signal
    if not ranks.is_first:
        return {}
    report = report_run(result.run, command=command)
    return {
        "run": str(folder),
        "steps": result.step,
        "best_step": result.best_step,
        "metrics": {part: metrics.to_json() for part, metrics in result.metrics.items()},
        "report": str(report),
    }
