"""Messages whose last field is large: written in place, where joining pieces would copy it."""

from typing import Any

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


def take_ids(request: bytes) -> tuple[bytes, Any] | None:
    """Returns a LookupRequest (proto/muxtable/v1) without its ids, and these, for `PlainLookup`.

    What is left is a LookupRequest as well, its columns without values: the same bytes for all
    requests that differ in their ids alone. None for a request with other values, nulls, lists or
    fields that there are not, and for one that is not sound: protobuf is to read those.
    """
    return _native.take_ids(request)


class PlainLookup:
    """Ids of hashed features to a LookupReply, in one call; large ones let go of the GIL."""

    def __init__(
        self,
        *,
        columns: NDArray[np.int32],
        num_lookups: NDArray[np.int32],
        salts: NDArray[np.uint64],
        bases: NDArray[np.int64],
        sizes: NDArray[np.int64],
        table: NDArray[np.uint8],
        tail: bytes,
        most_rows: int,
        most_bytes: int,
    ) -> None:
        """For F features with `num_lookups` [F] lookups each, of the request's `columns` [F].

        `salts`, `bases` and `sizes` are by lookup, in order; see `native.hashing.hash_rows`.
        `table` [R, row_bytes] is kept. `tail` are the fields of a reply before its rows.
        Raises IndexError where the table is too short for the regions.
        """
        self._lookup = _native.PlainLookup(
            vector(columns, np.int32, "columns"),
            vector(num_lookups, np.int32, "num_lookups"),
            vector(salts, np.uint64, "salts"),
            vector(bases, np.int64, "bases"),
            vector(sizes, np.int64, "sizes"),
            matrix(table, np.uint8, "table"),
            tail,
            most_rows,
            most_bytes,
        )

    def answer(self, stamp: bytes, ids: Any) -> bytes | None:
        """Returns the LookupReply that begins with `stamp`; None for no rows, and for too many.

        Rows stand feature by feature, value by value, lookup by lookup, from a multiple of 16 on.
        Raises ValueError where there are more or fewer columns of ids than the features have.
        """
        return self._lookup.answer(stamp, ids)
