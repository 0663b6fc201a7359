"""How a run looks while it works: one moving line in a terminal, a line now and then in a file."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from launch.console import Output, size_text

if TYPE_CHECKING:
    from trainer.metrics import Metrics
    from trainer.progress import StepReport

# Seconds between lines where nothing can move.
_LINE_INTERVAL_S = 20.0
_SHORT_STALL_S = 0.5


class RunProgress:
    """Shows a run's stages; `trainer.progress.Progress` for a person's eyes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        console = output.stderr()
        self._moves = console.is_terminal and not output.quiet
        self._bar = Progress(
            TextColumn("{task.description:<6}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not self._moves,
            transient=True,
        )
        self._task: TaskID | None = None
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, name: str, total: int | None) -> None:
        """Starts the line of another stage."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total, facts="")

    def trained(self, report: StepReport) -> None:
        """Moves the line of training."""
        auc = "" if report.auc is None else f"  AUC {report.auc:.4f}"
        facts = f"loss {report.loss:.4f}{auc}  {report.samples_per_s:,.0f} samples/s"
        if self._task is not None:
            self._bar.update(
                self._task, completed=report.step, total=report.total_steps, facts=facts
            )
        if not self._moves and time.monotonic() - self._said_at > _LINE_INTERVAL_S:
            self._said_at = time.monotonic()
            self._output.note(f"step {report.step:,} of {report.total_steps:,}: {facts}")

    def evaluated(self, rows: int) -> None:
        """Moves the line of an evaluation."""
        if self._task is not None:
            self._bar.advance(self._task, rows)

    def validated(self, step: int, metrics: Metrics, is_best: bool) -> None:
        """Prints a validation's metrics."""
        auc = "none" if metrics.auc is None else f"{metrics.auc:.4f}"
        loss = "none" if metrics.log_loss is None else f"{metrics.log_loss:.4f}"
        best = "  (best so far)" if is_best else ""
        self._output.note(f"step {step:,}: validation AUC {auc}, log loss {loss}{best}")

    def saved(self, step: int, stall_s: float) -> None:
        """Says that a checkpoint held training up, where it did."""
        if stall_s > _SHORT_STALL_S:
            self._output.note(f"step {step:,}: checkpoint saved, training paused {stall_s:.1f} s")

    def note(self, text: str) -> None:
        """Prints a line."""
        self._output.note(text)


class PassProgress:
    """Shows one pass over files: rows of a known total."""

    def __init__(self, output: Output, name: str) -> None:
        self._inner = RunProgress(output)
        self._name = name
        self._started = False

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inner.__exit__(kind, value, traceback)

    def __call__(self, done: int, total: int) -> None:
        """Moves the line to `done` of `total` rows."""
        if not self._started:
            self._inner.stage(self._name, total)
            self._started = True
            self._done = 0
        self._inner.evaluated(done - self._done)
        self._done = done


def memory_text(planned: int | None, measured: int | None) -> str:
    """Returns "planned 612 MiB, measured 598 MiB (-2 %)"."""
    if measured is None:
        return "not measured" if planned is None else f"planned {size_text(planned)}"
    if planned is None:
        return size_text(measured)
    change = 100 * (measured - planned) / planned
    return f"planned {size_text(planned)}, measured {size_text(measured)} ({change:+.0f} %)"
