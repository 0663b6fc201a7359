"""The columns of a request: how many values each has, and their keys.

What is common (ids without nulls) becomes keys at once. All else becomes an Arrow array over the
bytes of the request and takes the way of the training data (`features.columns`), which refuses what
does not fit. Either way a value has one key.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.columns import bucket_keys, keys_of
from features.errors import DataError
from features.hashing import cross_keys
from features.regions import FeatureRoute
from native import hashing
from serving.stubs import parameter_pb2 as pb

WHERE = "the request"
_TIMESTAMPS = {
    pb.UNIT_SECONDS: "s",
    pb.UNIT_MILLISECONDS: "ms",
    pb.UNIT_MICROSECONDS: "us",
    pb.UNIT_NANOSECONDS: "ns",
}
# Numbers of these units are keys as they are.
PLAIN_UNITS = (pb.UNIT_INTEGER, pb.UNIT_DAYS, pb.UNIT_MICROSECONDS)


def num_values(column: pb.Column) -> int:
    """Returns how many values a column has; DataError where its bytes are no whole number."""
    kind = column.WhichOneof("values")
    if kind == "int64s":
        return _whole(column, "int64s", column.int64s, 8)
    if kind == "strings":
        return _num_intervals(column, "offsets of strings", column.strings.offsets)
    if kind == "doubles":
        return _whole(column, "doubles", column.doubles, 8)
    raise DataError(
        f'{WHERE}: column "{column.name}" holds no values', "set int64s, strings or doubles"
    )


def num_samples(column: pb.Column, feature_is_bag: bool) -> int:
    """Returns for how many samples a column speaks."""
    if feature_is_bag:
        return _num_intervals(column, "offsets", column.offsets)
    return num_values(column)


def plain_ids(column: pb.Column) -> bytes | None:
    """Returns the bytes of a column whose int64s are keys as they stand, None of any other."""
    data: bytes = column.int64s
    if column.validity or column.offsets or column.unit not in PLAIN_UNITS:
        return None
    return data if data or column.WhichOneof("values") == "int64s" else None


def read_keys(
    route: FeatureRoute, columns: Mapping[str, pb.Column], routes: Mapping[str, FeatureRoute]
) -> KeyColumn:
    """Returns the keys of a feature; DataError where its columns do not fit it.

    `routes` are those of all features, of which a cross needs its parts.
    """
    feature = route.feature
    if feature.kind == "cross":
        parts = [read_keys(routes[part], columns, routes) for part in feature.parts]
        lengths = {len(part.keys) for part in parts}
        if len(lengths) > 1:
            raise DataError(
                f'{WHERE}: the columns of cross "{feature.name}" have'
                f" {' and '.join(map(str, sorted(lengths)))} values",
                "send one value of each part for every sample",
            )
        return KeyColumn(cross_keys([(part.keys, part.nulls) for part in parts]))
    column = columns[feature.column]
    if feature.kind == "bucketized":
        return bucket_keys(_arrow(column), feature, route.edges or (), WHERE)
    fast = _fast_keys(route, column)
    if fast is not None:
        return fast
    return keys_of(_arrow(column), feature, WHERE, route.key_class)


def _fast_keys(route: FeatureRoute, column: pb.Column) -> KeyColumn | None:
    """Returns the keys of single values without nulls of the class that training saw."""
    if route.feature.is_bag or route.feature.derive is not None:
        return None
    data = plain_ids(column)
    if data is not None and route.key_class == "int":
        num_values(column)
        return KeyColumn(np.frombuffer(data, np.uint64))
    if (
        route.key_class == "string"
        and not (column.validity or column.offsets)
        and column.WhichOneof("values") == "strings"
        and num_values(column)
    ):
        offsets = np.frombuffer(column.strings.offsets, np.int32)
        return KeyColumn(_string_keys(column, offsets))
    return None


def _string_keys(column: pb.Column, offsets: NDArray[np.int32]) -> NDArray[np.uint64]:
    data = np.frombuffer(column.strings.data, np.uint8)
    try:
        return hashing.hash_strings(offsets, data)
    except ValueError as exc:
        raise DataError(
            f'{WHERE}: the strings of column "{column.name}" are not cut soundly: {exc}',
            "send int32 offsets that rise from 0 to the size of their data",
        ) from exc


def _arrow(column: pb.Column) -> Any:
    """Returns a column as an Arrow array over its bytes."""
    count = num_values(column)
    validity = _validity(column, "validity", column.validity, count)
    kind = column.WhichOneof("values")
    if kind == "strings":
        offsets = column.strings.offsets or bytes(4)
        # Checked here: Arrow trusts offsets, and reads outside its buffers.
        _string_keys(column, np.frombuffer(offsets, np.int32))
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(column.strings.data)]
        values = pa.Array.from_buffers(pa.binary(), count, buffers)
    elif kind == "doubles":
        values = pa.Array.from_buffers(
            pa.float64(), count, [validity, pa.py_buffer(column.doubles)]
        )
    else:
        values = _integers(column, count, validity)
    if not column.offsets:
        return values
    return _lists(column, values)


def _integers(column: pb.Column, count: int, validity: Any) -> Any:
    if column.unit == pb.UNIT_DAYS:
        days = np.frombuffer(column.int64s, np.int64)
        if len(days) and (days.min() < -(2**31) or days.max() >= 2**31):
            raise DataError(
                f'{WHERE}: column "{column.name}" holds days beyond 32 bits',
                "send days since 1970-01-01, or name another unit",
            )
        narrow = pa.py_buffer(days.astype(np.int32))
        return pa.Array.from_buffers(pa.date32(), count, [validity, narrow])
    unit = _TIMESTAMPS.get(column.unit)
    if unit is None and column.unit != pb.UNIT_INTEGER:
        raise DataError(
            f'{WHERE}: column "{column.name}" has unit {column.unit}, which there is not',
            "use the units of muxtable.v1.Unit",
        )
    kind = pa.int64() if unit is None else pa.timestamp(unit, "UTC")
    return pa.Array.from_buffers(kind, count, [validity, pa.py_buffer(column.int64s)])


def _lists(column: pb.Column, values: Any) -> Any:
    samples = _num_intervals(column, "offsets", column.offsets)
    validity = _validity(column, "list_validity", column.list_validity, samples)
    offsets = np.frombuffer(column.offsets, np.int32)
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise DataError(
            f'{WHERE}: the offsets of column "{column.name}" do not rise from 0 to its'
            f" {len(values)} values",
            "send where the values of each sample begin, and their number at the end",
        )
    buffers = [validity, pa.py_buffer(column.offsets)]
    return pa.Array.from_buffers(pa.list_(values.type), samples, buffers, children=[values])


def _validity(column: pb.Column, name: str, data: bytes, count: int) -> Any:
    if not data:
        return None
    wanted = (count + 7) // 8
    if len(data) != wanted:
        raise DataError(
            f'{WHERE}: {name} of column "{column.name}" has {len(data)} bytes, not {wanted}',
            f"send one bit for each of {count}, or nothing where none is null",
        )
    return pa.py_buffer(data)


def _whole(column: pb.Column, name: str, data: bytes, size: int) -> int:
    count, rest = divmod(len(data), size)
    if rest:
        raise DataError(
            f'{WHERE}: {name} of column "{column.name}" has {len(data)} bytes',
            f"send {size} bytes for each value",
        )
    return count


def _num_intervals(column: pb.Column, name: str, data: bytes) -> int:
    return max(_whole(column, name, data, 4) - 1, 0)
