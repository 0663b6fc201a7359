"""Summaries of a column in bounded memory: its distinct keys, and a sample of its numbers.

Both keep the smallest of well-mixed numbers, so they depend on what was seen and not on how it was
cut into chunks, and two passes over the same data agree bit for bit.
"""

import numpy as np
from numpy.typing import NDArray

from native.hashing import GOLDEN, MASK, mix64

# Standard error of a count beyond this many distinct keys: 1 / sqrt(65,536) = 0.4 %.
DISTINCT_KEYS = 65_536
# Standard error of the rank of a quantile beyond this many rows: 0.2 %.
SAMPLED_ROWS = 65_536

Keys = NDArray[np.uint64]

# The multiplications of mix64 undone: the inverses of its odd factors modulo 2^64.
_UNDO_1 = np.uint64(pow(0x94D049BB133111EB, -1, 2**64))
_UNDO_2 = np.uint64(pow(0xBF58476D1CE4E5B9, -1, 2**64))


class DistinctKeys:
    """Counts distinct keys: exactly up to `capacity` of them, from a sketch of the size beyond.

    The sketch is the `capacity` smallest of the mixed keys (k minimum values: Bar-Yossef et al.
    2002, "Counting distinct elements in a data stream"). mix64 is a bijection, so as long as none
    was dropped the keys themselves can be had back.
    """

    def __init__(self, capacity: int = DISTINCT_KEYS) -> None:
        self._capacity = capacity
        self._kept: Keys = np.empty(0, np.uint64)  # distinct, sorted
        self._waiting: list[Keys] = []
        self._num_waiting = 0
        self._has_dropped = False

    @property
    def has_dropped(self) -> bool:
        """Whether keys were dropped so far; cheap, and late by what waits to be merged."""
        return self._has_dropped

    def add(self, keys: Keys) -> None:
        """Counts the keys of a column; nulls are left out by the caller."""
        mixed = mix64(np.ascontiguousarray(keys))
        if self._has_dropped:
            mixed = mixed[mixed < self._kept[-1]]
        if not len(mixed):
            return
        self._waiting.append(mixed)
        self._num_waiting += len(mixed)
        # Merging costs as much as what is kept, so it waits until as much has come together.
        if self._num_waiting >= max(len(self._kept), DISTINCT_KEYS):
            self._merge()

    @property
    def is_exact(self) -> bool:
        """Whether every key seen is still known."""
        self._merge()
        return not self._has_dropped

    def estimate(self) -> int:
        """Returns the number of distinct keys."""
        self._merge()
        if not self._has_dropped:
            return len(self._kept)
        return round((self._capacity - 1) / (float(self._kept[-1]) / 2.0**64))

    def keys(self) -> Keys:
        """Returns all distinct keys, sorted; ValueError where some were dropped."""
        if not self.is_exact:
            raise ValueError(f"there were more than {self._capacity} distinct keys")
        return np.sort(_unmix64(self._kept))

    def _merge(self) -> None:
        if not self._waiting:
            return
        merged = distinct(np.concatenate([self._kept, *self._waiting]))
        self._waiting, self._num_waiting = [], 0
        if len(merged) > self._capacity:
            # A copy, so that the rest of the array can be freed.
            merged, self._has_dropped = merged[: self._capacity].copy(), True
        self._kept = merged


class RowSample:
    """A uniform sample of rows for quantiles: all values up to `capacity` of them.

    The rows with the smallest priorities are kept, a priority being a function of the row's number.
    """

    def __init__(self, capacity: int = SAMPLED_ROWS) -> None:
        self._capacity = capacity
        self._priorities: Keys = np.empty(0, np.uint64)
        self._values: NDArray[np.float64] = np.empty(0)
        self._limit = np.uint64(MASK)
        self._waiting: list[tuple[Keys, NDArray[np.float64]]] = []
        self._num_waiting = 0

    def add(self, values: NDArray[np.float64], priorities: Keys) -> None:
        """Takes values that are not missing, with the priorities of their rows."""
        chosen = priorities <= self._limit
        self._waiting.append((priorities[chosen], values[chosen]))
        self._num_waiting += int(np.count_nonzero(chosen))
        if self._num_waiting >= self._capacity:
            self._merge()

    def values(self) -> NDArray[np.float64]:
        """Returns the sampled values, sorted."""
        self._merge()
        return np.sort(self._values)

    def _merge(self) -> None:
        priorities = np.concatenate([self._priorities, *(p for p, _ in self._waiting)])
        values = np.concatenate([self._values, *(v for _, v in self._waiting)])
        self._waiting, self._num_waiting = [], 0
        if len(priorities) > self._capacity:
            kept = np.argpartition(priorities, self._capacity - 1)[: self._capacity]
            priorities, values = priorities[kept], values[kept]
            self._limit = priorities.max()
        self._priorities, self._values = priorities, values


def row_priorities(first_row: int, num_rows: int, key: int) -> Keys:
    """Returns a well-mixed number for each of the rows from `first_row` on."""
    numbers = np.arange(first_row + 1, first_row + num_rows + 1, dtype=np.uint64)
    return mix64(numbers * np.uint64(GOLDEN) + np.uint64(key))


def quantile_edges(values: NDArray[np.float64], buckets: int) -> tuple[float, ...]:
    """Returns the distinct inner edges that cut sorted values into buckets of about equal size.

    Value x belongs to bucket searchsorted(edges, x, side="right"); fewer edges than asked for where
    values repeat, since a value never lies in two buckets and no bucket is empty.
    """
    places = np.arange(1, buckets) * len(values) // buckets
    edges = np.unique(values[places]) if len(values) else values
    return tuple(float(edge) for edge in edges if edge > values[0])


def distinct(keys: Keys) -> Keys:
    """Returns the distinct keys, sorted: numpy's vectorised sort beats np.unique's hash table."""
    ordered = np.sort(keys)
    is_first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def _unmix64(x: Keys) -> Keys:
    x = x ^ (x >> np.uint64(31)) ^ (x >> np.uint64(62))
    x = x * _UNDO_1
    x = x ^ (x >> np.uint64(27)) ^ (x >> np.uint64(54))
    x = x * _UNDO_2
    return x ^ (x >> np.uint64(30)) ^ (x >> np.uint64(60))
