"""Keys and rows of "mux1" (ARCHITECTURE.md, "From a value to its rows"), for whole columns.

Letters: n values, F features, L lookups, c lookups of one feature, v vocabulary. All arithmetic is
on unsigned 64-bit integers and wraps. Every function releases the GIL; arrays are never converted:
another dtype is a TypeError, a wrong shape or a gap inside a row a ValueError.
"""

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import matrix, vector

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1

Keys = NDArray[np.uint64]
Nulls = NDArray[np.uint8]
Rows = NDArray[np.int64]


def mix64(x: Keys) -> Keys:
    """Returns mix64 of each of the n numbers."""
    return _native.mix64(vector(x, np.uint64, "x"))


def xxh64(data: bytes, seed: int = 0) -> int:
    """Returns the 64-bit xxHash of `data`."""
    return _native.xxh64(data, seed & MASK)


def hash_strings(
    offsets: NDArray[np.int32] | NDArray[np.int64], data: NDArray[np.uint8], seed: int = 0
) -> Keys:
    """Returns xxh64 of each of the n strings of an Arrow buffer pair.

    `offsets` (n + 1 of them, already cut to a slice) must rise and stay inside `data`: they come
    from a file, and a ValueError says so when they do not.
    """
    if offsets.dtype == np.int32:
        offsets = vector(offsets, np.int32, "offsets")
    else:
        offsets = vector(offsets, np.int64, "offsets")
    return _native.hash_strings(offsets, vector(data, np.uint8, "data"), seed & MASK)


def salts(name: str, num_lookups: int, hash_seed: int) -> Keys:
    """Returns salt(f, k) of the feature (or shared) name for k = 0 .. num_lookups - 1."""
    start = xxh64(name.encode(), hash_seed)
    steps = [(start + (k + 1) * GOLDEN) & MASK for k in range(num_lookups)]
    return mix64(np.array(steps, np.uint64))


def combine_keys(acc: Keys, keys: Keys, part: int) -> None:
    """Folds the keys of a cross's part (numbered from 0) into `acc`, in place.

    `acc` starts as zeros; after the last part it holds the keys of the cross.
    """
    _native.combine_keys(
        vector(acc, np.uint64, "acc", write=True),
        vector(keys, np.uint64, "keys"),
        ((part + 1) * GOLDEN) & MASK,
    )


def hash_rows(
    keys: Keys,
    nulls: Nulls | None,
    feature: NDArray[np.int32],
    salts: Keys,
    null_salts: Keys,
    bases: Rows,
    sizes: Rows,
    out: Rows,
    threads: int = 1,
) -> None:
    """Writes the rows of L lookups of F features' keys [F, n] into `out` [L, n].

    out[l, i] = bases[l] + mulhi64(mix64(keys[feature[l], i] ^ salts[l]), sizes[l]); where
    nulls[feature[l], i] is not 0, key 0 under null_salts[l] instead. The rows of `keys`, `nulls`
    and `out` may lie apart; inside they are contiguous.
    """
    _native.hash_rows(
        matrix(keys, np.uint64, "keys"),
        None if nulls is None else matrix(nulls, np.uint8, "nulls"),
        vector(feature, np.int32, "feature"),
        vector(salts, np.uint64, "salts"),
        vector(null_salts, np.uint64, "null_salts"),
        vector(bases, np.int64, "bases"),
        vector(sizes, np.int64, "sizes"),
        matrix(out, np.int64, "out", write=True),
        threads,
    )


def exact_rows(
    keys: Keys, nulls: Nulls | None, vocabulary: Keys, base: int, num_lookups: int, out: Rows
) -> None:
    """Writes the rows of a feature whose v values own rows into `out` [c, n].

    out[k, i] = base + value * c + k, where value is the key's place in the rising `vocabulary`,
    v for a key that is not there and v + 1 for a null. That it rises was checked when it was
    loaded; one that does not gives wrong rows, but none outside base .. base + (v + 2) * c.
    """
    _native.exact_rows(
        vector(keys, np.uint64, "keys"),
        None if nulls is None else vector(nulls, np.uint8, "nulls"),
        vector(vocabulary, np.uint64, "vocabulary"),
        base,
        num_lookups,
        matrix(out, np.int64, "out", write=True),
    )
