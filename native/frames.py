"""Messages whose last field is large: written in place, where joining pieces would copy it."""

import numpy as np
from numpy.typing import NDArray

from native import _native


def reserve(head: bytes, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Returns a bytes object that begins with `head`, and its last `size` bytes as an array.

    These hold anything until they are written through the array, which is to be done before
    anybody else sees the object. Its first byte lies at a multiple of 16.
    """
    frame, body = _native.reserve(head, size)
    return frame, body
