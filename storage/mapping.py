"""Read-only views of files in memory, without a copy and without keeping descriptors open.

Ranges of several files that are whole pages can be mapped one behind the other as one array.
Python's own mmap cannot, and it keeps a descriptor for each file, of which a process has few.
"""

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence

import numpy as np

_PROT_NONE = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)
_FAILED = ctypes.c_void_p(-1).value


def page_start(offset: int) -> int:
    """Returns where the page of an offset begins."""
    return offset - offset % mmap.ALLOCATIONGRANULARITY


def can_join(ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether ranges (offset, size) of files can be mapped one behind the other as one array."""
    return all(page_start(offset) == offset for offset, _ in ranges[1:]) and all(
        page_start(offset + size) == offset + size for offset, size in ranges[:-1]
    )


class Mapping:
    """Addresses for `size_bytes` that ranges of files are mapped to, one behind the other.

    A file that shrinks while it is mapped kills its reader (SIGBUS), so files of bundles are never
    written again; removing or replacing them is safe. Raises OSError.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self.size_done = 0
        if size_bytes:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            self._start = _mmap(None, size_bytes, _PROT_NONE, flags, -1, 0)
            self._buffer = (ctypes.c_ubyte * size_bytes).from_address(self._start)
            # Not at exit: other threads may still read then, and the kernel unmaps anyway.
            weakref.finalize(self._buffer, _munmap, self._start, size_bytes).atexit = False

    def add(self, descriptor: int, offset: int, size_bytes: int) -> None:
        """Maps the next range, at a multiple of the page size; the file may be closed then."""
        if size_bytes:
            address = self._start + self.size_done
            flags = mmap.MAP_SHARED | _MAP_FIXED
            _mmap(address, size_bytes, mmap.PROT_READ, flags, descriptor, offset)
            self.size_done += size_bytes

    def array(self) -> np.ndarray:
        """Returns all bytes as a read-only array, which keeps them mapped."""
        assert self.size_done == self._size  # noqa: S101  addresses without a file kill the reader
        if self._size == 0:
            return np.frombuffer(b"", dtype=np.uint8)
        # A read-only memoryview below the array, so that nobody can make it writable again.
        return np.frombuffer(memoryview(self._buffer).toreadonly(), dtype=np.uint8)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


_LIBC = _libc()


def _mmap(
    address: int | None, size: int, protection: int, flags: int, descriptor: int, offset: int
) -> int:
    result = _LIBC.mmap(address, size, protection, flags, descriptor, offset)
    if result is None or result == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _munmap(address: int, size: int) -> None:
    _LIBC.munmap(address, size)
