"""What the tests of the native functions share: instruction sets, and rows that lie apart."""

import contextlib
from collections.abc import Iterator

import numpy as np

from native import kernels

NAMES = ("baseline", "avx2", "avx512")


def available():
    """Returns the instruction sets this processor can run."""
    best = kernels.instruction_set()
    names = []
    for name in NAMES:
        with contextlib.suppress(ValueError):
            kernels.choose(name)
            names.append(name)
    kernels.choose(best)
    return names


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Runs the kernels with another instruction set for a while."""
    best = kernels.instruction_set()
    kernels.choose(name)
    try:
        yield
    finally:
        kernels.choose(best)


def spread(array: np.ndarray, gap: int = 3) -> np.ndarray:
    """Returns an equal matrix whose rows lie `gap` items apart, with noise between them."""
    noise = np.full((len(array), array.shape[1] + gap), 99, array.dtype)
    noise[:, : array.shape[1]] = array
    return noise[:, : array.shape[1]]
