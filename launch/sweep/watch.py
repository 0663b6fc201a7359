"""How a sweep looks while it works: a bar of points with the time that is left, a line for each."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from launch.console import Output


class PointsProgress:
    """Counts the points of this start; those stored before are no measure of what is left."""

    def __init__(self, output: Output, total: int, stored: int) -> None:
        self._output = output
        self._total = total
        self._stored = stored
        self._done = 0
        self._began = time.monotonic()
        console = output.stderr()
        self._bar = Progress(
            TextColumn("points"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
            disable=output.quiet or not console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("points", total=total, completed=stored, facts="")

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

    def ended(self, text: str) -> None:
        """One more point is stored; `text` says which and how it ended."""
        self._done += 1
        number = self._stored + self._done
        left = self._total - number
        eta = f"about {_span(self.left_s(left))} left" if left else ""
        self._bar.update(self._task, completed=number, facts=eta)
        self._output.note(f"{number} of {self._total}: {text}" + (f"; {eta}" if eta else ""))

    def left_s(self, left: int) -> float:
        """Returns how long `left` points will take at the pace so far."""
        return (time.monotonic() - self._began) / max(self._done, 1) * left


def _span(seconds: float) -> str:
    """Returns a span of time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
