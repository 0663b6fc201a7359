"""What the ranks know together at each step: the sums of the batch, and who was asked to stop.

Ranks may only leave a step together, so none acts on its own view of a signal or a loss. What one
of them saw before a step, all of them know after it.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sharding.ranks import Ranks

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the global batch."""

    loss: float
    """Sum of the weighted losses."""
    weight: float
    rows: int


class Together:
    """The ranks, and their common view of losses and stop requests."""

    def __init__(self, ranks: Ranks, stop_requested: Callable[[], int | None]) -> None:
        self.ranks = ranks
        self._stop_requested = stop_requested
        self._signal: int | None = None

    @classmethod
    def alone(cls, stop_requested: Callable[[], int | None] = lambda: None) -> "Together":
        """The view of one process."""
        return cls(Ranks.alone(), stop_requested)

    @property
    def signal(self) -> int | None:
        """The signal that all ranks know to have asked for a stop; alone, at once."""
        if self.ranks.world_size == 1:
            return self._stop_requested()
        return self._signal

    def totals(self, loss: float, weight: float, rows: int) -> Totals:
        """Returns the sums over the ranks, and lets all know who was asked to stop; collective."""
        if self.ranks.world_size == 1:
            return Totals(loss=loss, weight=weight, rows=rows)
        loss, weight, number = self._sum(loss, weight, float(rows))
        return Totals(loss=loss, weight=weight, rows=int(number))

    def poll(self) -> int | None:
        """Returns `signal` after all ranks have told each other; collective."""
        if self.ranks.world_size > 1:
            self._sum()
        return self.signal

    def _sum(self, *values: float) -> list[float]:
        asked = self._stop_requested()
        votes = [float(asked == number) for number in _SIGNALS]
        sums: list[float] = self.ranks.sum(
            torch.tensor([*values, *votes], dtype=torch.float64)
        ).tolist()
        for number, count in zip(_SIGNALS, sums[len(values) :], strict=True):
            if count and self._signal is None:
                self._signal = int(number)
        return sums[: len(values)]
