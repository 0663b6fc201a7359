"""From Arrow columns to keys: the hot path of the input, without a Python loop over values.

    integer, boolean        its 64-bit two's complement (uint64 over 2^63 as it is)
    string, binary          xxh64 of the bytes; of a dictionary-encoded column each value once
    date                    days since 1970
    timestamp               microseconds UTC since 1970, rounded down
    derived, in UTC         hour 0-23, weekday 0-6 from Monday, day 1-31
    list of these           the keys of its values, and offsets

A feature's keys are all integers or all strings: the same id has different keys as 7 and as "7".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features import ragged
from features.arrow import (
    booleans,
    chunks_of,
    fixed_width,
    list_bounds,
    null_mask,
    storage_of,
    strings,
)
from features.batches import KeyColumn
from features.dense import numbers_of
from features.errors import DataError
from features.hashing import cross_keys
from features.ids import check_type, is_string, key_class
from features.schema import Derive, Feature, FeatureSet
from features.statistics import KeyClass
from native import hashing as native

__all__ = ["bucket_keys", "check_type", "key_class", "keys_of", "table_keys"]

_Keys = NDArray[np.uint64]
_Mask = NDArray[np.uint8]
_Part = tuple[_Keys, _Mask | None]

_INTEGERS = {
    pa.int8(): np.int8,
    pa.int16(): np.int16,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.uint8(): np.uint8,
    pa.uint16(): np.uint16,
    pa.uint32(): np.uint32,
    pa.uint64(): np.uint64,
}
_US_PER_DAY = 86_400_000_000
_MS_PER_DAY = 86_400_000
_US_PER_HOUR = 3_600_000_000
# What a timestamp's unit is multiplied or (negative) divided by to be microseconds.
_TO_US = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": -1_000}
_MONDAY = 3  # 1970-01-01 was a Thursday


def keys_of(
    array: Any, feature: Feature, where: str, trained_class: KeyClass | None = None
) -> KeyColumn:
    """Returns the keys of a column for a categorical, list or sequence feature.

    `array` is an Arrow Array or ChunkedArray; `where` names file and row group in errors.
    `trained_class`, where given, is the class the feature was trained on; another one is refused.
    Raises DataError naming the column: its type holds no ids or does not fit the feature's kind, or
    a value is out of range.
    """
    check_type(array.type, feature, where, trained_class)
    if feature.is_bag:
        return _bag_of(array, feature, where)
    keys, nulls = _join(
        [_values(chunk, feature.column, feature.derive, where) for chunk in chunks_of(array)]
    )
    return KeyColumn(keys, nulls)


def table_keys(
    table: Any,
    feature_set: FeatureSet,
    where: str,
    *,
    edges: Mapping[str, Sequence[float]],
    key_classes: Mapping[str, KeyClass | None] | None = None,
) -> dict[str, KeyColumn]:
    """Returns the keys of every embedded feature of an Arrow Table or RecordBatch, by name.

    `edges` are those of the bucketized features; one without edges is left out, which is what a
    profile needs that has yet to find them. Parts of crosses are hashed once.
    """
    classes = key_classes or {}
    columns: dict[str, KeyColumn] = {}
    for feature in feature_set.features:
        if feature.kind == "cross":
            parts = [columns[part] for part in feature.parts]
            columns[feature.name] = KeyColumn(cross_keys([(p.keys, p.nulls) for p in parts]))
        elif feature.kind == "bucketized":
            if feature.name in edges:
                array = table.column(feature.column)
                columns[feature.name] = bucket_keys(array, feature, edges[feature.name], where)
        else:
            array = table.column(feature.column)
            columns[feature.name] = keys_of(array, feature, where, classes.get(feature.name))
    return columns


def bucket_keys(array: Any, feature: Feature, edges: Sequence[float], where: str) -> KeyColumn:
    """Returns the buckets of a bucketized feature as keys; null and NaN are null.

    Value x is in bucket i where edges[i - 1] <= x < edges[i]. Raises DataError as `features.dense`.
    """
    numbers, missing = numbers_of(array, feature.column, where)
    keys = np.searchsorted(np.asarray(edges, np.float64), numbers, side="right").astype(np.uint64)
    if missing is None:
        return KeyColumn(keys)
    keys[missing] = 0
    return KeyColumn(keys, missing.view(np.uint8))


def _join(parts: list[_Part]) -> _Part:
    """One column from the keys of its chunks."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.empty(0, np.uint64), None
    keys = np.concatenate([keys for keys, _ in parts])
    if all(nulls is None for _, nulls in parts):
        return keys, None
    masks = [np.zeros(len(keys), np.uint8) if nulls is None else nulls for keys, nulls in parts]
    return keys, np.concatenate(masks)


def _bag_of(array: Any, feature: Feature, where: str) -> KeyColumn:
    lists = [_lists(storage_of(chunk), feature, where) for chunk in chunks_of(array)]
    keys, nulls = _join([(keys, nulls) for keys, nulls, _ in lists])
    offsets = ragged.offsets_of(
        np.concatenate([np.diff(offsets) for _, _, offsets in lists] or [np.empty(0, np.int64)])
    )
    return KeyColumn(keys, nulls, offsets)


def _lists(array: Any, feature: Feature, where: str) -> tuple[_Keys, _Mask | None, Any]:
    if pa.types.is_null(array.type):
        size = len(array)
        return np.zeros(size, np.uint64), np.ones(size, np.uint8), np.arange(size + 1)
    try:
        offsets, values = list_bounds(array)
    except ValueError as exc:
        raise DataError(f'{where}: column "{feature.column}" is damaged: {exc}', _REWRITE) from exc
    keys, null_values = _values(values, feature.column, None, where)
    settled = ragged.settle_nulls(keys, null_values, offsets, null_mask(array))
    if feature.max_length is None:
        return settled
    return ragged.newest(*settled, feature.max_length)


_REWRITE = "write the file again"


def _values(array: Any, column: str, derive: Derive | None, where: str) -> _Part:
    """Keys and nulls of one array of single values whose type was checked."""
    array = storage_of(array)
    if pa.types.is_dictionary(array.type):
        if len(array.dictionary) <= 2 * len(array):
            return _dictionary(array, column, derive, where)
        # A few rows cut out of a large dictionary: hashing all of it would cost more.
        array = storage_of(array.dictionary_decode())
    nulls = null_mask(array)
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.uint64), nulls
    if is_string(array.type):
        keys = _string_keys(array, column, where)
    else:
        keys = _integer_keys(array, nulls, column, derive, where)
    return _zero_nulls(keys, nulls), nulls


def _zero_nulls(keys: _Keys, nulls: _Mask | None) -> _Keys:
    """Keys with 0 where null: what lies there in the buffer is unspecified."""
    if nulls is None:
        return keys
    return np.where(nulls.view(bool), np.uint64(0), keys)


def _dictionary(array: Any, column: str, derive: Derive | None, where: str) -> _Part:
    """Hashes each value of the dictionary once, then takes keys by index."""
    keys, value_nulls = _values(array.dictionary, column, derive, where)
    nulls = null_mask(array.indices)
    raw = fixed_width(array.indices, _INTEGERS[array.indices.type])
    indices = raw if nulls is None else np.where(nulls.view(bool), raw.dtype.type(0), raw)
    present = indices if nulls is None else indices[nulls == 0]
    if len(present) and (int(present.min()) < 0 or int(present.max()) >= len(keys)):
        raise DataError(
            f'{where}: column "{column}" is damaged: an index is outside its dictionary', _REWRITE
        )
    if len(keys) == 0:
        return np.zeros(len(array), np.uint64), nulls
    taken = keys[indices]
    if value_nulls is not None:
        value_nulls = value_nulls[indices]
        nulls = value_nulls if nulls is None else nulls | value_nulls
    return _zero_nulls(taken, nulls), nulls


def _string_keys(array: Any, column: str, where: str) -> _Keys:
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    offsets, data = strings(array)
    try:
        return native.hash_strings(offsets, data)
    except ValueError as exc:
        raise DataError(f'{where}: column "{column}" is damaged: {exc}', _REWRITE) from exc


def _integer_keys(
    array: Any, nulls: _Mask | None, column: str, derive: Derive | None, where: str
) -> _Keys:
    if pa.types.is_boolean(array.type):
        return booleans(array).astype(np.uint64)
    if pa.types.is_timestamp(array.type):
        micros = _microseconds(array, nulls, column, where)
        if derive is None:
            return micros.view(np.uint64)
        days, rest = np.divmod(micros, _US_PER_DAY)
        if derive == "hour":
            return (rest // _US_PER_HOUR).view(np.uint64)
        return _CALENDAR[derive](days).view(np.uint64)
    if pa.types.is_date(array.type):
        days = _days(array)
        return (days if derive is None else _CALENDAR[derive](days)).view(np.uint64)
    values = fixed_width(array, _INTEGERS[array.type])
    if values.dtype.itemsize == 8:
        return values.view(np.uint64)
    return values.astype(np.int64).view(np.uint64)


def _microseconds(array: Any, nulls: _Mask | None, column: str, where: str) -> NDArray[np.int64]:
    values = fixed_width(array, np.int64)
    factor = _TO_US[array.type.unit]
    if factor == 1:
        return values
    if factor < 0:
        return values // -factor
    limit = (2**63 - 1) // factor
    outside = (values > limit) | (values < -limit)
    if nulls is not None:
        outside &= nulls == 0
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f'{where}: column "{column}" holds {array.type} {values[row]} in row {row}, which no '
            "64-bit number of microseconds can say",
            "mend the value, or store the column as integers",
        )
    return values * factor


def _days(array: Any) -> NDArray[np.int64]:
    if pa.types.is_date32(array.type):
        return fixed_width(array, np.int32).astype(np.int64)
    return fixed_width(array, np.int64) // _MS_PER_DAY


def _weekday(days: NDArray[np.int64]) -> NDArray[np.int64]:
    return (days + _MONDAY) % 7


def _day_of_month(days: NDArray[np.int64]) -> NDArray[np.int64]:
    dates = days.astype("datetime64[D]")
    first = dates.astype("datetime64[M]").astype("datetime64[D]")
    return (dates - first).astype(np.int64) + 1


_CALENDAR: dict[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {
    "weekday": _weekday,
    "day": _day_of_month,
}
