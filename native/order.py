"""Seeded numbers and permutations (ARCHITECTURE.md, "Random numbers"), and permuted columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import vector
from native.hashing import GOLDEN, MASK, xxh64

_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_ITEMS: dict[int, Any] = {1: np.uint8, 4: np.uint32, 8: np.uint64}


def derive(tag: str, seed: int, *parts: int) -> int:
    """Returns a 64-bit number that depends on all arguments; numbers are taken modulo 2^64."""
    x = xxh64(tag.encode(), seed & MASK)
    for part in parts:
        x = _mix64(((x ^ (part & MASK)) + GOLDEN) & MASK)
    return x


def permutation(n: int, key: int) -> NDArray[np.uint32]:
    """Returns the permutation of 0 .. n - 1 that `key` stands for."""
    return _native.permutation(n, key & MASK)


def permute_columns(
    columns: Sequence[NDArray[Any]], permutation: NDArray[np.uint32], out: NDArray[Any]
) -> None:
    """Writes out[c, i] = columns[c][permutation[i]]; items of 1, 4 or 8 bytes, no gaps."""
    vector(permutation, np.uint32, "permutation")
    if out.ndim != 2 or out.shape != (len(columns), len(permutation)):
        raise ValueError(
            f"out has shape {out.shape}, expected ({len(columns)}, {len(permutation)})"
        )
    item = _ITEMS.get(out.itemsize)
    if item is None:
        raise TypeError(f"out holds {out.dtype}: items of 1, 4 or 8 bytes can be permuted")
    for place, column in enumerate(columns):
        if column.dtype != out.dtype:
            raise TypeError(f"columns[{place}] holds {column.dtype}, out holds {out.dtype}")
        name = f"columns[{place}]"
        _native.permute_column(
            vector(column.view(item), item, name),
            permutation,
            vector(out[place].view(item), item, f"out[{place}]", write=True),
        )


def _mix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MIX1) & MASK
    x = ((x ^ (x >> 27)) * _MIX2) & MASK
    return x ^ (x >> 31)
