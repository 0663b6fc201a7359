"""Checks of the arrays handed to C++, where a wrong one gets an error that names it."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def vector(array: NDArray[Any], dtype: type[Scalar], name: str) -> NDArray[Scalar]:
    """Returns `array` if it is a contiguous vector of `dtype`, else TypeError or ValueError."""
    _require_dtype(array, dtype, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} axes, expected 1")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} has gaps between its items, expected a contiguous vector")
    return array


def matrix(array: NDArray[Any], dtype: type[Scalar], name: str) -> NDArray[Scalar]:
    """Returns `array` if it is a matrix of `dtype`; C++ checks its strides."""
    _require_dtype(array, dtype, name)
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} axes, expected 2")
    return array


def _require_dtype(array: NDArray[Any], dtype: type[Scalar], name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}, expected a numpy array")
    if array.dtype != dtype:
        raise TypeError(f"{name} holds {array.dtype}, expected {np.dtype(dtype)}")
