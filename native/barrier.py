"""A meeting point of processes that share memory."""

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import vector

_WRAP = 2**32


class Barrier:
    """Lets `num_processes` go on together, time after time.

    Each has a Barrier of its own on one uint32 in shared memory, 0 at first, and all make the same
    number of calls. What a process wrote before `arrive` is seen by those that `wait` has let go.
    """

    def __init__(self, arrivals: NDArray[np.uint32], num_processes: int, spins: int) -> None:
        """`spins` is how often to look before the processor is given away."""
        self._arrivals = vector(arrivals, np.uint32, "arrivals", write=True)
        self._num_processes = num_processes
        self._spins = spins
        self._target = 0

    def arrive(self) -> None:
        """Says that this process is here."""
        self._target = (self._target + self._num_processes) % _WRAP
        _native.arrive(self._arrivals, self._target)

    def wait(self, timeout_s: float) -> bool:
        """Returns whether all processes came within the time; after False, wait again."""
        return _native.wait_for(self._arrivals, self._target, self._spins, int(timeout_s * 1e6))
