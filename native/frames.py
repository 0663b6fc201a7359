"""Messages whose last field is large: written in place, where joining pieces would copy it."""

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import matrix, vector


def reserve(head: bytes, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Returns a bytes object that begins with `head`, and its last `size` bytes as an array.

    These hold anything until they are written through the array, which is to be done before
    anybody else sees the object. Its first byte lies at a multiple of 16.
    """
    return _native.reserve(head, size)


class RawLookup:
    """Ids of hashed features to coded rows, in one call that lets go of the GIL."""

    def __init__(
        self,
        num_lookups: NDArray[np.int32],
        salts: NDArray[np.uint64],
        bases: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        """For F features with `num_lookups` [F] lookups each; the others are by lookup, in order.

        See `native.hashing.hash_rows` for what they mean.
        """
        self._lookup = _native.RawLookup(
            vector(num_lookups, np.int32, "num_lookups"),
            vector(salts, np.uint64, "salts"),
            vector(bases, np.int64, "bases"),
            vector(sizes, np.int64, "sizes"),
        )

    def answer(self, head: bytes, ids: list[bytes], table: NDArray[np.uint8]) -> bytes:
        """Returns `head` and behind it the rows of `table` that the ids own.

        `ids` has the keys of each feature's n values, u64 little-endian, as many for each. Rows
        stand feature by feature, value by value, lookup by lookup. Raises ValueError where ids
        differ in length, IndexError where the table is too short for the regions.
        """
        return self._lookup.answer(head, ids, matrix(table, np.uint8, "table"))
