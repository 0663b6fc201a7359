"""Bringing a mapped table into memory before the first lookup reads it.

Without it the first batch waits for the disk at each of its rows. Both passes let go of the GIL:
lookups of the version that is being served go on meanwhile. The second pass is needed as well: a
page that the kernel has read, but no processor has touched, costs microseconds at its first use.
"""

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

_MADV_POPULATE_READ = 22
# A pass of that many bytes at a time, so that a version that is unloaded does not wait for long.
_PIECE_BYTES = 64 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def touch(table: NDArray[np.uint8]) -> int:
    """Reads a byte of every page of a mapped table; returns how many bytes it has."""
    if not table.size:
        return 0
    flat = table.reshape(-1)
    address = flat.ctypes.data
    lead = address % mmap.PAGESIZE
    for start in range(0, flat.size, _PIECE_BYTES):
        end = min(start + _PIECE_BYTES, flat.size)
        # Kernels before 5.14 do not know it; then the second pass reads the pages.
        first = address - lead + start
        _LIBC.madvise(first, end - start + (lead if start == 0 else 0), _MADV_POPULATE_READ)
        flat[start : end : mmap.PAGESIZE].max()
    return flat.size
