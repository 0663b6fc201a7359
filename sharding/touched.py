"""Which rows of a shard were moved since they were saved in whole: a byte a row.

0   as in the base, the last whole save
1   moved since the base began
2   moved since the save began that may become the next base
"""

import numpy as np
from numpy.typing import NDArray


class Touched:
    """The rows that differ, or may differ, from the base; `mark` fits `TableEngine.on_touched`."""

    def __init__(self, num_rows: int) -> None:
        self._moved = np.zeros(num_rows, np.uint8)
        self._mark = 1

    def mark(self, rows: NDArray[np.int64]) -> None:
        """Notes that rows, maybe repeated, are being moved."""
        self._moved[rows] = self._mark

    def rows(self) -> NDArray[np.int64]:
        """Returns the rows that were moved since the base, ascending."""
        return np.flatnonzero(self._moved)

    def begin(self) -> None:
        """A whole save begins: rows that are moved from now on are not in it."""
        self._mark = 2

    def commit(self) -> None:
        """The whole save became the base."""
        np.right_shift(self._moved, 1, out=self._moved)
        self._mark = 1

    def fail(self) -> None:
        """The whole save came to nothing: the base stays."""
        np.minimum(self._moved, 1, out=self._moved)
        self._mark = 1
