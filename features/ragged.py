"""Lists as offsets and values, cut and mended without a loop over them.

List i of a column is values[offsets[i]:offsets[i + 1]]; offsets are int64[B + 1] from 0 on.
"""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Mask = NDArray[np.uint8]
Offsets = NDArray[np.int64]


def offsets_of(lengths: NDArray[np.int64]) -> Offsets:
    """The offsets of lists of these lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers starts[i], ..., starts[i] + lengths[i] - 1 of all i, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def newest(
    keys: Keys, nulls: Mask | None, offsets: Offsets, max_length: int
) -> tuple[Keys, Mask | None, Offsets]:
    """Cuts each list to its last `max_length` values."""
    lengths = np.diff(offsets)
    if not (lengths > max_length).any():
        return keys, nulls, offsets
    lengths = np.minimum(lengths, max_length)
    kept = ranges(offsets[1:] - lengths, lengths)
    return keys[kept], None if nulls is None else nulls[kept], offsets_of(lengths)


def settle_nulls(
    keys: Keys, null_values: Mask | None, offsets: Offsets, null_lists: Mask | None
) -> tuple[Keys, Mask | None, Offsets]:
    """Leaves null values out and makes each null list a list of one null.

    What a null list's offsets span is ignored. The mask that comes back marks null lists only.
    """
    if null_values is None and null_lists is None:
        return keys, None, offsets
    is_kept = np.ones(len(keys), bool) if null_values is None else ~null_values.view(bool)
    if null_lists is None:
        before = offsets_of(is_kept.astype(np.int64))
        return keys[is_kept], None, before[offsets]
    is_null = null_lists.view(bool)
    is_kept &= ~np.repeat(is_null, np.diff(offsets))
    before = offsets_of(is_kept.astype(np.int64))
    lengths = np.diff(before[offsets])
    settled = offsets_of(np.where(is_null, 1, lengths))
    out = np.zeros(int(settled[-1]), np.uint64)
    nulls = np.zeros(len(out), np.uint8)
    nulls[settled[:-1][is_null]] = 1
    out[nulls == 0] = keys[is_kept]
    return out, nulls, settled
