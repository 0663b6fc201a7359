"""Checks of the arrays handed to C++, where a wrong one gets an error that names it."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def vector(
    array: NDArray[Any], dtype: type[Scalar], name: str, write: bool = False
) -> NDArray[Scalar]:
    """Returns `array` if it is a contiguous vector of `dtype`, else TypeError or ValueError.

    With `write` it must be writable, too.
    """
    _require(array, dtype, 1, name, write)
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} has gaps between its items, expected a contiguous vector")
    return array


def matrix(
    array: NDArray[Any], dtype: type[Scalar], name: str, write: bool = False
) -> NDArray[Scalar]:
    """Returns `array` if it is a matrix of `dtype`; C++ checks its strides."""
    _require(array, dtype, 2, name, write)
    return array


def _require(
    array: NDArray[Any], dtype: type[Scalar], num_axes: int, name: str, write: bool
) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}, expected a numpy array")
    if array.dtype != dtype:
        raise TypeError(f"{name} holds {array.dtype}, expected {np.dtype(dtype)}")
    if array.ndim != num_axes:
        raise ValueError(f"{name} has {array.ndim} axes, expected {num_axes}")
    if not array.flags.aligned:
        raise ValueError(f"{name} does not lie at a multiple of its item size")
    if write and not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
