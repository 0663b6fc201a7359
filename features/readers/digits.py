"""Values numbered by a dictionary, and the digits of their numbers: QR and tensor trains.

Value i of a feature has number offset + i, an unseen one offset + n, null offset + n + 1, so that
features may share one space of numbers. Digit k of a number counts in radix r_k, the lowest first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from native import hashing as native


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """The digits of the values of one feature."""

    keys: NDArray[np.uint64]
    """The dictionary: sorted keys."""
    offset: int
    """The number of the first value."""
    radices: tuple[int, ...]
    """Their product is larger than any number."""

    def of(self, column: KeyColumn) -> NDArray[np.int64]:
        """Returns the digits int64[K, n] of n keys."""
        number = np.empty((1, len(column.keys)), np.int64)
        if number.size:
            native.exact_rows(column.keys, column.nulls, self.keys, self.offset, 1, number)
        digits = np.empty((len(self.radices), len(column.keys)), np.int64)
        rest = number[0]
        for k, radix in enumerate(self.radices):
            rest, digits[k] = np.divmod(rest, radix)
        return digits
