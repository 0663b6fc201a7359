"""Memory of tables, their initial values, and the allocator beside them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import matrix
from native.hashing import MASK

Table = NDArray[np.float32]


def allocate(rows: int, width: int) -> Table:
    """Returns a zeroed float32 [rows, width] whose rows start at cache lines, in huge pages.

    Rows lie a power of two of floats apart up to 16, then a multiple of 16 (64 bytes). Pages become
    resident when they are first written. MemoryError where the address space has no room.
    """
    return _native.allocate(rows, width)


def allocate_vector(n: int) -> Table:
    """Returns a zeroed float32 [n] in huge pages."""
    column: NDArray[Any] = _native.allocate(n, 1)
    return column.reshape(n)


def fill_uniform(
    table: Table, key: int, scale: float, first_row: int = 0, threads: int = 1
) -> None:
    """Writes initial values, uniform in (-scale, scale), into rows first_row, first_row + 1, ...

    A value depends on `key` (derive("init", seed)), its row and its column alone, so that any
    split of a table into parts gives the same one.
    """
    _native.fill_uniform(
        matrix(table, np.float32, "table", write=True), key & MASK, scale, first_row, threads
    )


def tune_allocator() -> bool:
    """Makes the allocator keep the memory of large temporaries; False where it cannot be told.

    Each tensor above 32 MB otherwise starts with a page fault for every 4 KB, and a step that reads
    gradients at random spends a sixth of its time on small pages: the heap's next GB gets huge
    ones. It changes the whole process and keeps up to 2 GB of what was freed resident: the start of
    a training calls it, no import does.
    """
    return _native.tune_allocator()
