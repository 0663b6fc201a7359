"""What a run tells whoever watches it: a protocol, the silent watcher, and the meter behind it."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import Metrics

# Predictions the displayed AUC is taken over: sorting them costs about a millisecond.
RECENT = 16_384
# Seconds between reports: faster than the eye, slower than a step.
INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """How training stands; loss and AUC are those of the most recent samples, for display only."""

    step: int
    total_steps: int
    epoch: int
    samples: int
    loss: float
    auc: float | None
    samples_per_s: float
    eta_s: float


class Progress(Protocol):
    """Watches a run. Calls come from the training thread, so they must be quick."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins: "train" counts `total` steps, "valid" and "test" rows."""

    def trained(self, report: StepReport) -> None:
        """Some steps later, a few times a second."""

    def evaluated(self, rows: int) -> None:
        """So many more rows of the data set were evaluated."""

    def validated(self, step: int, metrics: Metrics, is_best: bool) -> None:
        """A validation has ended."""

    def saved(self, step: int, stall_s: float) -> None:
        """A checkpoint of `step` was taken; training stood still for `stall_s` seconds."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """Watches nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignored."""

    def trained(self, report: StepReport) -> None:
        """Ignored."""

    def evaluated(self, rows: int) -> None:
        """Ignored."""

    def validated(self, step: int, metrics: Metrics, is_best: bool) -> None:
        """Ignored."""

    def saved(self, step: int, stall_s: float) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


class Meter:
    """Speed, and loss and AUC over the last RECENT samples."""

    def __init__(self) -> None:
        self._logits = np.zeros(RECENT, np.float32)
        self._labels = np.zeros(RECENT, np.float32)
        self._seen = 0
        self._losses: deque[float] = deque(maxlen=100)
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=40)
        self._due = time.monotonic()
        self._rate_mark = (self._due, 0)

    def restart(self, step: int, samples: int) -> None:
        """Forgets the speed: what follows must not count a pause in."""
        now = time.monotonic()
        self._marks.clear()
        self._marks.append((now, step, samples))
        self._rate_mark = now, samples

    def add(self, logits: NDArray[Any], labels: NDArray[Any], loss: float) -> None:
        """Counts a trained batch."""
        count = min(len(logits), RECENT)
        start = self._seen % RECENT
        first = min(count, RECENT - start)
        for ring, batch in ((self._logits, logits), (self._labels, labels)):
            ring[start : start + first] = batch[:first]
            ring[: count - first] = batch[first:count]
        self._seen += count
        self._losses.append(loss)

    def rate(self, samples: int) -> float:
        """Returns the samples per second since the call before, or since the restart."""
        now = time.monotonic()
        since, before = self._rate_mark
        self._rate_mark = now, samples
        return (samples - before) / max(now - since, 1e-9)

    def report(self, step: int, total_steps: int, epoch: int, samples: int) -> StepReport | None:
        """Returns how things stand, or None where that was said a moment ago."""
        now = time.monotonic()
        if now < self._due and step < total_steps:
            return None
        self._due = now + INTERVAL_S
        start, first_step, first_samples = self._marks[0] if self._marks else (now, step, samples)
        self._marks.append((now, step, samples))
        seconds = max(now - start, 1e-9)
        pace = (step - first_step) / seconds
        return StepReport(
            step=step,
            total_steps=total_steps,
            epoch=epoch,
            samples=samples,
            loss=float(np.mean(self._losses)) if self._losses else float("nan"),
            auc=self._auc(),
            samples_per_s=(samples - first_samples) / seconds,
            eta_s=(total_steps - step) / pace if pace > 0 else float("inf"),
        )

    def _auc(self) -> float | None:
        count = min(self._seen, RECENT)
        scores, positive = self._logits[:count], self._labels[:count] > 0
        num_positive = int(positive.sum())
        if not 0 < num_positive < count:
            return None
        # Mann-Whitney by ranks; ties are broken by position, which a display can bear.
        ranks = np.empty(count)
        ranks[np.argsort(scores)] = np.arange(1, count + 1)
        below = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
        return float(below / (num_positive * (count - num_positive)))
