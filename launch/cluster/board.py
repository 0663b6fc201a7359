"""What the ranks and the driver tell each other: an actor of Ray that needs no shared disk.

    rank 0  --post-->  board  --take-->  driver       progress, notes, warnings
    rank r  --fail-->  board  --failures-->  driver   the error it ends with
    driver  --stop-->  board  --stop_asked-->  rank 0  which tells the other ranks at a step

A train function gets no signal from Ray, and what workers print is forwarded late, doubled and
out of order, so nothing is read from there.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.errors import FirstRankError, LostRankError, MuxtableError, UnavailableError
from launch.failures import describe

if TYPE_CHECKING:
    from trainer.metrics import Metrics
    from trainer.progress import StepReport

# Seconds between looks at the board, and between posts of what changes all the time.
POLL_S = 0.2
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReport:
    """The error a rank ended with."""

    rank: int
    what: str
    fix: str
    exit_code: int
    is_ours: bool
    """Whether one of our checks found it: the next attempt would find it again."""
    is_consequence: bool
    """Whether it only says that another rank failed."""
    is_memory: bool = False

    @classmethod
    def of(cls, rank: int, error: BaseException) -> RankReport:
        """Describes an error."""
        failure = describe(error)
        return cls(
            rank=rank,
            what=failure.what,
            fix=failure.fix,
            exit_code=failure.exit_code,
            is_ours=isinstance(error, MuxtableError) and not isinstance(error, UnavailableError),
            is_consequence=isinstance(error, LostRankError)
            or (isinstance(error, FirstRankError) and rank != 0),
            is_memory=isinstance(error, MemoryError),
        )


class Board:
    """The actor; its calls are run one at a time."""

    def __init__(self) -> None:
        self._events: list[tuple[str, tuple[Any, ...]]] = []
        self._failures: list[RankReport] = []
        self._stop: int | None = None

    def post(self, name: str, *arguments: Any) -> None:
        """Keeps an event until it is taken."""
        self._events.append((name, arguments))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Returns the events since the last call."""
        taken, self._events = self._events, []
        return taken

    def fail(self, report: RankReport) -> None:
        """Keeps the error of a rank."""
        self._failures.append(report)

    def failures(self) -> list[RankReport]:
        """Returns the errors, the earliest first."""
        return self._failures

    def stop(self, number: int) -> None:
        """Asks for a stop in the name of a signal."""
        self._stop = number

    def stop_asked(self) -> int | None:
        """Returns the signal, or None."""
        return self._stop


class StopWatch:
    """Looks at the board in a thread of its own; calling it returns the signal, or None."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._signal: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)

    def __call__(self) -> int | None:
        """Returns the signal."""
        return self._signal

    def __enter__(self) -> StopWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import ray

        # A board that is gone took the driver with it: Ray ends this process.
        with suppress(ray.exceptions.RayError):
            while self._signal is None and not self._done.wait(POLL_S):
                self._signal = ray.get(self._board.stop_asked.remote(), timeout=_ANSWER_S)


class PostedProgress:
    """Posts the progress of rank 0; `trainer.progress.Progress` for the driver's terminal."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._rows = 0
        self._due = 0.0

    def stage(self, name: str, total: int | None) -> None:
        """Another stage."""
        self._post("stage", name, total)

    def trained(self, report: StepReport) -> None:
        """Some steps; they come a few times a second."""
        self._post("trained", report)

    def evaluated(self, rows: int) -> None:
        """Adds up rows: evaluation says so for every batch."""
        self._rows += rows
        if time.monotonic() > self._due:
            self._due = time.monotonic() + POLL_S
            self._flush()

    def validated(self, step: int, metrics: Metrics, is_best: bool) -> None:
        """A validation's metrics."""
        self._post("validated", step, metrics, is_best)

    def saved(self, step: int, stall_s: float) -> None:
        """A checkpoint."""
        self._post("saved", step, stall_s)

    def note(self, text: str) -> None:
        """A line."""
        self._post("note", text)

    def warn(self, text: str) -> None:
        """A warning of the log."""
        self._post("warn", text)

    def _post(self, name: str, *arguments: Any) -> None:
        self._flush()
        self._board.post.remote(name, *arguments)

    def _flush(self) -> None:
        rows, self._rows = self._rows, 0
        if rows:
            self._board.post.remote("evaluated", rows)


class PostedLog(logging.Handler):
    """Posts the warnings of our packages."""

    def __init__(self, progress: PostedProgress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Posts one."""
        self._progress.warn(self.format(record))
