"""Arrow buffers as numpy arrays, without a copy: values, validity bits, string and list offsets.

Slices share the buffers of what they were cut from, so everything here starts at `array.offset`.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Mask = NDArray[np.uint8]


def chunks_of(array: Any) -> list[Any]:
    """The arrays a column consists of: those of a ChunkedArray, or the array itself."""
    return array.chunks if isinstance(array, pa.ChunkedArray) else [array]


def storage_of(array: Any) -> Any:
    """The plain array below an extension type such as arrow.uuid."""
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def storage_type(arrow_type: Any) -> Any:
    """The plain type below an extension type."""
    if isinstance(arrow_type, pa.BaseExtensionType):
        return arrow_type.storage_type
    return arrow_type


def null_mask(array: Any) -> Mask | None:
    """1 where null; None where nothing is."""
    if array.null_count == 0:
        return None
    if pa.types.is_null(array.type):
        return np.ones(len(array), np.uint8)
    validity = array.buffers()[0]
    return 1 - _bits(validity, array.offset, len(array))


def fixed_width(array: Any, dtype: Any) -> NDArray[Any]:
    """The values of a fixed-width array; unspecified where null."""
    dtype = np.dtype(dtype)
    if len(array) == 0:
        return np.empty(0, dtype)
    values = array.buffers()[1]
    return np.frombuffer(values, dtype, len(array), array.offset * dtype.itemsize)


def booleans(array: Any) -> Mask:
    """The values of a boolean array, 0 or 1."""
    if len(array) == 0:
        return np.empty(0, np.uint8)
    return _bits(array.buffers()[1], array.offset, len(array))


def strings(array: Any) -> tuple[NDArray[np.int32] | NDArray[np.int64], Mask]:
    """Offsets [n + 1] and bytes of a (large_)string, (large_)binary or fixed_size_binary array."""
    data = _bytes(array.buffers()[-1])
    if pa.types.is_fixed_size_binary(array.type):
        size = array.type.byte_width
        return np.arange(array.offset, array.offset + len(array) + 1, dtype=np.int64) * size, data
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    dtype: Any = np.int64 if large else np.int32
    if len(array) == 0:
        return np.zeros(1, dtype), data
    offsets = np.frombuffer(
        array.buffers()[1], dtype, len(array) + 1, array.offset * np.dtype(dtype).itemsize
    )
    return offsets, data


def list_bounds(array: Any) -> tuple[NDArray[np.int64], Any]:
    """Offsets int64[n + 1] of a list array, from 0 on, and the values they cut."""
    size = len(array)
    if pa.types.is_fixed_size_list(array.type):
        length = array.type.list_size
        offsets = np.arange(size + 1, dtype=np.int64) * length
        return offsets, array.values.slice(array.offset * length, size * length)
    if size == 0:
        return np.zeros(1, np.int64), array.values.slice(0, 0)
    dtype: Any = np.int64 if pa.types.is_large_list(array.type) else np.int32
    raw = np.frombuffer(
        array.buffers()[1], dtype, size + 1, array.offset * np.dtype(dtype).itemsize
    )
    offsets = raw.astype(np.int64)
    if offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any() or offsets[-1] > len(array.values):
        raise ValueError("list offsets do not rise within their values")
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    return offsets - offsets[0], values


def _bits(buffer: Any, offset: int, size: int) -> Mask:
    first = offset // 8
    packed = np.frombuffer(buffer, np.uint8, (offset + size + 7) // 8 - first, first)
    start = offset - first * 8
    return np.unpackbits(packed, bitorder="little", count=start + size)[start:]


def _bytes(buffer: Any) -> Mask:
    if buffer is None or buffer.size == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8)
