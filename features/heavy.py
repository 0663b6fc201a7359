"""The most frequent values of a feature, counted in bounded memory.

Counters are kept for at most `capacity` keys. Whenever there are more, the count of the first one
too many is taken from all, and what is then at zero is forgotten (Misra and Gries 1982; for whole
steps at once: Agarwal et al., Mergeable Summaries, PODS 2012). So a count is never too high, and
too low by at most `error`, which is below n / (capacity + 1) for n values seen; a key more frequent
than that is never forgotten.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.sketch import Keys

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeavyHitters:
    """Frequent keys of a feature with their counts."""

    keys: Keys
    """Sorted, without repetition."""
    counts: Counts
    """How often each was seen at least."""
    error: int
    """How much more often at most."""

    def __post_init__(self) -> None:
        if self.keys.dtype != np.uint64 or self.counts.dtype != np.int64:
            raise ValueError("frequent keys are uint64, their counts int64")
        if self.keys.ndim != 1 or self.keys.shape != self.counts.shape or self.error < 0:
            raise ValueError("frequent keys and their counts do not go together")
        if not (self.keys[1:] > self.keys[:-1]).all() or not (self.counts > 0).all():
            raise ValueError("frequent keys rise, and their counts are positive")

    def merged(self, other: "HeavyHitters") -> "HeavyHitters":
        """Returns those of both, counted together."""
        keys, counts = _summed(
            np.concatenate([self.keys, other.keys]), np.concatenate([self.counts, other.counts])
        )
        return HeavyHitters(keys=keys, counts=counts, error=self.error + other.error)


class HeavyCounter:
    """Counts keys step by step; what it finds depends on the data and its steps alone."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: Keys = np.empty(0, np.uint64)
        self._counts: Counts = np.empty(0, np.int64)
        self._error = 0

    def add(self, keys: Keys) -> None:
        """Counts the keys of a column; nulls are left out by the caller."""
        found, counts = np.unique(keys, return_counts=True)
        self._keys, self._counts = _summed(
            np.concatenate([self._keys, found]),
            np.concatenate([self._counts, counts.astype(np.int64)]),
        )
        if len(self._keys) > self._capacity:
            place = len(self._counts) - self._capacity - 1
            excess = int(np.partition(self._counts, place)[place])
            kept = self._counts > excess
            self._keys, self._counts = self._keys[kept], self._counts[kept] - excess
            self._error += excess

    def result(self, most: int) -> HeavyHitters:
        """Returns the `most` frequent keys, of equally frequent ones those with smaller keys."""
        first = np.sort(by_count(self._counts)[:most])
        return HeavyHitters(keys=self._keys[first], counts=self._counts[first], error=self._error)


def by_count(counts: Counts) -> NDArray[np.int64]:
    """Returns the places of counts, the largest first, of equal ones the first."""
    return np.argsort(-counts, kind="stable")


def _summed(keys: Keys, counts: Counts) -> tuple[Keys, Counts]:
    """Returns the distinct keys, sorted, with the sums of their counts."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(counts, first)
