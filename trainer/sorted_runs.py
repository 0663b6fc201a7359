"""Numbers in order, however many: sorted in runs that are spilled to disk, then merged.

A run is a stretch of one nameless temporary file: n scores, then n signed weights, all float64 in
the machine's byte order (the file never outlives the process). The sign says which class a weight
belongs to: positive or negative; weights of 0 change nothing and are dropped.

The merge holds a block of each run. Whatever is not above the smallest last score of the blocks is
complete, so it is sorted and handed on; equal scores at that border wait for their rest.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from features.errors import TrainingError

Floats = NDArray[np.float64]

_ITEM = np.dtype(np.float64).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Distinct scores in rising order, with the weights of positives and negatives of each."""

    scores: Floats
    positive: Floats
    negative: Floats


class SortedRuns:
    """Takes scores with signed weights and gives them back in order, each score once."""

    def __init__(self, directory: Path, buffer: int) -> None:
        if buffer < 1:
            raise ValueError(f"a buffer of {buffer} scores holds nothing")
        self._directory = directory
        self._buffer = buffer
        self._scores = np.empty(0)
        self._weights = np.empty(0)
        self._used = 0
        self._file: IO[bytes] | None = None
        self._bounds = [0]

    def close(self) -> None:
        """Gives memory and disk back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._scores = self._weights = np.empty(0)
        self._used = 0
        self._bounds = [0]

    def add(self, scores: Floats, weights: Floats) -> None:
        """Adds finite scores [n] with signed weights [n]."""
        kept = weights != 0
        if not kept.all():
            scores, weights = scores[kept], weights[kept]
        done = 0
        while done < len(scores):
            if self._used == self._buffer:
                self._spill()
            self._grow(len(scores) - done)
            take = min(len(scores) - done, len(self._scores) - self._used)
            place, source = slice(self._used, self._used + take), slice(done, done + take)
            self._scores[place], self._weights[place] = scores[source], weights[source]
            self._used += take
            done += take

    def merged(self) -> Iterator[Group]:
        """Yields all that was added, in groups of rising scores; every score once."""
        scores, weights = self._sorted()
        if self._file is None:
            yield from _joined([_group(scores, weights)])
            return
        runs = [
            _Run(self._file, start, stop - start)
            for start, stop in zip(self._bounds, self._bounds[1:], strict=False)
        ]
        runs.append(_Run(None, 0, len(scores), scores, weights))
        block = max(self._buffer // len(runs), 1)
        yield from _joined(_merge(runs, block))

    def _grow(self, wanted: int) -> None:
        # Doubling up to the buffer: a small data set must not pay for a large buffer.
        if self._used < len(self._scores):
            return
        size = min(max(2 * len(self._scores), wanted, 4096), self._buffer)
        for name in ("_scores", "_weights"):
            grown = np.empty(size)
            grown[: self._used] = getattr(self, name)[: self._used]
            setattr(self, name, grown)

    def _sorted(self) -> tuple[Floats, Floats]:
        order = np.argsort(self._scores[: self._used], kind="stable")
        return self._scores[order], self._weights[order]

    def _spill(self) -> None:
        scores, weights = self._sorted()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 closed by close()
            self._file.seek(0, 2)
            self._file.write(scores.data)
            self._file.write(weights.data)
            self._file.flush()
        except OSError as exc:
            raise TrainingError(
                f"cannot spill {len(scores)} scores to {self._directory}: {exc.strerror}",
                "free disk space there or raise train.metrics_buffer",
            ) from exc
        self._bounds.append(self._bounds[-1] + len(scores))
        self._used = 0


class _Run:
    """A cursor over one sorted run, on disk or in memory."""

    def __init__(
        self,
        file: IO[bytes] | None,
        start: int,
        size: int,
        scores: Floats | None = None,
        weights: Floats | None = None,
    ) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._next = 0 if scores is None else size
        self.scores = np.empty(0) if scores is None else scores
        self.weights = np.empty(0) if weights is None else weights

    @property
    def is_loaded(self) -> bool:
        """Whether nothing of the run is left on disk."""
        return self._next == self._size

    def fill(self, block: int) -> None:
        """Reads the next block where the last one is used up."""
        if len(self.scores) or self.is_loaded:
            return
        count = min(block, self._size - self._next)
        # A run lies in the file as its scores, then its weights.
        first = 2 * self._start + self._next
        self.scores = self._read(first, count)
        self.weights = self._read(first + self._size, count)
        self._next += count

    def take(self, bound: float) -> tuple[Floats, Floats]:
        """Removes and returns what is loaded and not above `bound`."""
        cut = int(np.searchsorted(self.scores, bound, side="right"))
        taken = self.scores[:cut], self.weights[:cut]
        self.scores, self.weights = self.scores[cut:], self.weights[cut:]
        return taken

    def _read(self, first: int, count: int) -> Floats:
        if self._file is None:
            raise RuntimeError("a run in memory has nothing to read")
        self._file.seek(first * _ITEM)
        return np.frombuffer(self._file.read(count * _ITEM), np.float64)


def _merge(runs: list[_Run], block: int) -> Iterator[Group]:
    while True:
        for run in runs:
            run.fill(block)
        runs = [run for run in runs if len(run.scores)]
        if not runs:
            return
        bound = min((run.scores[-1] for run in runs if not run.is_loaded), default=np.inf)
        taken = [run.take(bound) for run in runs]
        scores = np.concatenate([scores for scores, _ in taken])
        weights = np.concatenate([weights for _, weights in taken])
        order = np.argsort(scores, kind="stable")
        yield _group(scores[order], weights[order])


def _group(scores: Floats, weights: Floats) -> Group:
    """Adds up the weights of equal scores; `scores` is sorted."""
    if not len(scores):
        return Group(scores=scores, positive=weights, negative=weights)
    first = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    return Group(
        scores=scores[first],
        positive=np.add.reduceat(np.maximum(weights, 0), first),
        negative=np.add.reduceat(np.maximum(-weights, 0), first),
    )


def _joined(groups: Iterator[Group] | list[Group]) -> Iterator[Group]:
    """Joins a score that ends one group and starts the next."""
    held: Group | None = None
    for group in groups:
        if not len(group.scores):
            continue
        if held is not None:
            group = _prepend(held, group)
        yield _slice(group, slice(0, -1))
        held = _slice(group, slice(-1, None))
    if held is not None:
        yield held


def _prepend(held: Group, group: Group) -> Group:
    if held.scores[0] != group.scores[0]:
        return Group(
            scores=np.concatenate([held.scores, group.scores]),
            positive=np.concatenate([held.positive, group.positive]),
            negative=np.concatenate([held.negative, group.negative]),
        )
    positive, negative = group.positive.copy(), group.negative.copy()
    positive[0] += held.positive[0]
    negative[0] += held.negative[0]
    return Group(scores=group.scores, positive=positive, negative=negative)


def _slice(group: Group, part: slice) -> Group:
    return Group(
        scores=group.scores[part], positive=group.positive[part], negative=group.negative[part]
    )
