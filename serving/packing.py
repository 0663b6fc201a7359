"""From values in a caller's hands to columns of a request.

    integers, booleans        numpy, lists, Arrow; unsigned ones as their two's complement
    strings, bytes            lists, numpy, Arrow
    dates, times              numpy datetime64, Arrow dates and timestamps, Python datetimes
    numbers                   for bucketized features
    lists                     lists of lists, Arrow lists, arrays [B, T], (values, offsets [B + 1])

None is null wherever it can stand; so is what Arrow calls null.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrow import booleans, fixed_width, list_bounds, null_mask, storage_of, strings
from features.errors import DataError, LimitError
from features.ids import INTEGERS, is_list, is_string
from serving.stubs import parameter_pb2 as pb

_UNITS: dict[str, pb.Unit] = {
    "s": pb.UNIT_SECONDS,
    "ms": pb.UNIT_MILLISECONDS,
    "us": pb.UNIT_MICROSECONDS,
    "ns": pb.UNIT_NANOSECONDS,
}
_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Values:
    """The values of one column, which can be cut and packed."""

    name: str
    data: Any
    """A numpy vector of int64, or an Arrow array."""
    lengths: NDArray[np.int64] | None
    """Of the lists; None for single values."""

    def __len__(self) -> int:
        return len(self.data)

    def pack(self, first: int, end: int) -> pb.Column:
        """Returns the samples [first, end) as a column."""
        return packed(self.name, self.data[first:end])


def read_values(name: str, values: Any) -> Values:
    """Takes what a caller has; DataError naming the column that is none."""
    if type(values) is np.ndarray and values.dtype.kind in "iub" and values.ndim == 1:
        return Values(name=name, data=_int64s(values), lengths=None)
    array = _arrow(name, values)
    lengths = None
    if is_list(array.type):
        lengths = np.diff(list_bounds(array)[0])
        missing = null_mask(array)
        if missing is not None:
            lengths = np.where(missing.view(bool), 1, lengths)
    return Values(name=name, data=array, lengths=lengths)


def packed(name: str, array: Any) -> pb.Column:
    """Returns a numpy vector of int64 or an Arrow array as a column of a request."""
    if isinstance(array, np.ndarray):
        return pb.Column(name=name, int64s=array.tobytes())
    column = pb.Column(name=name)
    array = storage_of(array)
    if is_list(array.type):
        offsets, values = list_bounds(array)
        column.offsets = _int32s(name, offsets).tobytes()
        column.list_validity = _validity(array)
        array = storage_of(values)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    column.validity = _validity(array)
    _write_values(column, array)
    return column


def _write_values(column: pb.Column, array: Any) -> None:
    kind = array.type
    if kind in INTEGERS:
        column.int64s = _int64s(fixed_width(array, kind.to_pandas_dtype())).tobytes()
    elif pa.types.is_boolean(kind):
        column.int64s = booleans(array).astype(np.int64).tobytes()
    elif pa.types.is_null(kind):
        column.int64s = bytes(8 * len(array))
    elif pa.types.is_timestamp(kind):
        column.int64s = fixed_width(array, np.int64).tobytes()
        column.unit = _UNITS[kind.unit]
    elif pa.types.is_date(kind):
        is_narrow = pa.types.is_date32(kind)
        days = fixed_width(array, np.int32 if is_narrow else np.int64).astype(np.int64)
        column.int64s = (days if is_narrow else days // _MS_PER_DAY).tobytes()
        column.unit = pb.UNIT_DAYS
    elif is_string(kind):
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            array = array.cast(pa.large_binary())
        offsets, data = strings(array)
        first, end = int(offsets[0]), int(offsets[-1])
        column.strings.offsets = _int32s(column.name, offsets - first).tobytes()
        column.strings.data = data[first:end].tobytes()
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = array.cast(pa.float64())
        column.doubles = fixed_width(numbers, np.float64).tobytes()
    else:
        raise DataError(
            f'column "{column.name}" holds {kind}', "give integers, strings, dates or numbers"
        )


def _arrow(name: str, values: Any) -> Any:
    """Returns values as one Arrow array."""
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError(
            f'column "{name}" got a single {type(values).__name__}',
            "give a list or an array with one value for each sample",
        )
    try:
        if isinstance(values, tuple) and len(values) == 2:
            offsets = np.asarray(values[1]).astype(np.int32)
            return pa.ListArray.from_arrays(pa.array(offsets), _flat(values[0]))
        if getattr(values, "ndim", 1) == 2:
            matrix = np.asarray(values)
            offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
            return pa.ListArray.from_arrays(pa.array(offsets), _flat(matrix.reshape(-1)))
        return _flat(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as exc:
        raise DataError(
            f'column "{name}" got a {type(values).__name__} that is no column: {exc}',
            "give values of one kind in one list or array",
        ) from exc


def _flat(values: Any) -> Any:
    if hasattr(values, "detach"):  # a tensor of torch, which need not be installed
        values = np.asarray(values.detach().cpu())
    try:
        array = pa.array(values)
    except OverflowError:
        # Arrow takes Python integers for signed ones.
        array = pa.array(values, pa.uint64())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _int64s(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype == np.uint64:
        return values.view(np.int64)
    return values.astype(np.int64, copy=False)


def _int32s(name: str, offsets: NDArray[Any]) -> NDArray[np.int32]:
    if len(offsets) and offsets[-1] >= 2**31:
        raise LimitError(f'column "{name}" has {offsets[-1]:,} bytes', "send it in parts")
    return offsets.astype(np.int32)


def _validity(array: Any) -> bytes:
    missing = null_mask(array)
    if missing is None:
        return b""
    return np.packbits(missing == 0, bitorder="little").tobytes()
