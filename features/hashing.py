"""Keys of values, keys of crosses, and the rows of keys: the hash "mux1" of ARCHITECTURE.md.

The arithmetic is in `native.hashing`; `features.columns` makes keys of whole Arrow columns. Here
are the small parts: names to salts, one value to its key, and rows outside any layout, which is
what the writer of another client checks against (`muxtable hash`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError
from native import hashing as native

HASH = "mux1"
# Stands for a null part of a cross.
NULL_KEY = np.uint64(native.xxh64(b"\0null", 0))
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def salts(name: str, num_lookups: int, hash_seed: int) -> NDArray[np.uint64]:
    """The salts of a feature's lookups: uint64[c]."""
    return native.salts(name, num_lookups, hash_seed)


def null_salts(name: str, num_lookups: int, hash_seed: int) -> NDArray[np.uint64]:
    """The salts under which null is key 0: uint64[c]."""
    return native.salts(f"{name}\0null", num_lookups, hash_seed)


def key_of(value: int | str | bytes | bool) -> int:
    """The key of one value; DataError for an integer that no 64-bit column can hold.

    Whole columns go through `features.columns`.
    """
    if isinstance(value, str):
        value = value.encode("utf-8")
    if isinstance(value, bytes):
        return native.xxh64(value, 0)
    if not _INT64_MIN <= value <= _UINT64_MAX:
        raise DataError(
            f"{value} does not fit into 64 bits",
            "ids are int64 or uint64, or strings of any length",
        )
    return int(value) % 2**64


def cross_keys(
    parts: Sequence[tuple[NDArray[np.uint64], NDArray[np.uint8] | None]],
) -> NDArray[np.uint64]:
    """The keys of a cross from (keys, nulls) of its parts in declared order; never null itself."""
    crossed = np.zeros(len(parts[0][0]), np.uint64)
    for i, (keys, nulls) in enumerate(parts):
        part = keys if nulls is None else np.where(nulls.view(bool), NULL_KEY, keys)
        native.combine_keys(crossed, part, i)
    return crossed


def hashed_rows(
    keys: NDArray[np.uint64],
    nulls: NDArray[np.uint8] | None,
    *,
    name: str,
    num_lookups: int,
    num_rows: int,
    base: int = 0,
    hash_seed: int = 0,
) -> NDArray[np.int64]:
    """The rows int64[c, n] of a feature's keys in a region of `num_rows` rows from `base` on."""
    out = np.empty((num_lookups, len(keys)), np.int64)
    native.hash_rows(
        keys[None, :],
        None if nulls is None else nulls[None, :],
        np.zeros(num_lookups, np.int32),
        salts(name, num_lookups, hash_seed),
        null_salts(name, num_lookups, hash_seed),
        np.full(num_lookups, base, np.int64),
        np.full(num_lookups, num_rows, np.int64),
        out,
    )
    return out
