"""The vectors of values: rows that a feature's reader combines, and lists of them pooled.

Letters: n values, c rows of each, d floats of a row, B lists, D floats of a vector.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.readers.base import Reader
from native import kernels

_VALUES = 4096

Vectors = NDArray[np.float32]
# decode(rows int64[N]) -> float32[N, d]
Decode = Callable[[NDArray[np.int64]], Vectors]


def combined(reader: Reader, column: KeyColumn, decode: Decode, threads: int = 1) -> Vectors:
    """Returns the vectors [n, D] of keys, each by itself, as training combines them.

    Some values at a time: what a reader needs for one may be many times its vector.
    """
    num_values = len(column.keys)
    out = np.empty((num_values, reader.out_width), np.float32)
    for first in range(0, num_values, _VALUES):
        part = slice(first, first + _VALUES)
        nulls = None if column.nulls is None else column.nulls[part]
        reading = reader.read(KeyColumn(column.keys[part], nulls), threads)
        decoded = decode(reading.rows.reshape(-1))
        out[part] = reader.combine(decoded.reshape(*reading.rows.shape, -1), reading.extra)
    return out


def pool(vectors: Vectors, offsets: NDArray[np.int64], mean: bool, threads: int = 1) -> Vectors:
    """Returns the sum or mean [B, D] of the vectors [n, D] of each list; zeros for an empty one."""
    out = np.empty((len(offsets) - 1, vectors.shape[1]), np.float32)
    # The vectors are a small table of their own.
    places = np.arange(len(vectors))[None]
    kernels.gather_bags(vectors, places, offsets, mean, 0, out, threads)
    return out
