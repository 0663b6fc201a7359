"""What the machine's memory gives at best, measured in the same run as the kernels.

A table kernel cannot be faster than the memory: random rows of 128 bytes, copied or changed with
the next ones asked for ahead and nothing else done, are the limit the benchmarks compare with.
"""

import numpy as np

from native import _native
from native.arrays import matrix, vector
from native.kernels import Rows, Table


def copy_rows(table: Table, rows: Rows, out: Table, threads: int = 1) -> None:
    """Copies the n given rows of a float32 [R, 32] to `out` [n * 32], one after another."""
    _native.limit_copy_rows(
        matrix(table, np.float32, "table"),
        vector(rows, np.int64, "rows"),
        vector(out, np.float32, "out", write=True),
        threads,
    )


def change_rows(table: Table, rows: Rows, threads: int = 1) -> None:
    """Negates the given distinct rows of a float32 [R, 32]."""
    _native.limit_change_rows(
        matrix(table, np.float32, "table", write=True), vector(rows, np.int64, "rows"), threads
    )


def read_all(data: Table, threads: int = 1) -> float:
    """Reads a float32 vector from front to back and returns its sum."""
    return _native.limit_read_all(vector(data, np.float32, "data"), threads)
