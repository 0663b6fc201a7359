"""Which Arrow types hold ids, and of which class: decided before a value is looked at.

    int      integers of any width, booleans, dates, timestamps
    string   strings and binary of any layout
    list     of these, for list and sequence features; any of them dictionary-encoded

Floats, decimals, times, durations and structs are refused, each with the ways out.
"""

from typing import Any

import pyarrow as pa

from features.arrow import storage_type
from features.errors import DataError
from features.schema import Feature
from features.statistics import KeyClass

INTEGERS = (
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
)


_NAMES: dict[KeyClass | None, str] = {"int": "integers", "string": "strings"}


def key_class(arrow_type: Any, column: str, where: str) -> KeyClass | None:
    """The class of the keys of a column, or of the values of a list column.

    None for a column of nulls, which goes with both. Raises DataError, with ways out, for a type
    that holds no ids.
    """
    plain = storage_type(arrow_type)
    if is_list(plain):
        plain = storage_type(plain.value_type)
    if pa.types.is_dictionary(plain):
        plain = storage_type(plain.value_type)
    if pa.types.is_null(plain):
        return None
    if plain in INTEGERS or pa.types.is_boolean(plain):
        return "int"
    if pa.types.is_date(plain) or pa.types.is_timestamp(plain):
        return "int"
    if is_string(plain):
        return "string"
    raise DataError(f'{where}: column "{column}" holds {arrow_type}, not ids', _ways_out(plain))


def check_type(
    arrow_type: Any, feature: Feature, where: str, trained_class: KeyClass | None = None
) -> None:
    """Raises DataError naming the column unless its type fits the feature.

    That is: single values or lists, of a type with keys, of the class the feature was trained on,
    and with the part it derives.
    """
    column = feature.column
    plain = storage_type(arrow_type)
    found = key_class(arrow_type, column, where)
    if feature.is_bag and not (is_list(plain) or pa.types.is_null(plain)):
        raise DataError(
            f'{where}: column "{column}" of {feature.kind} feature "{feature.name}" holds '
            f"{arrow_type}, not lists",
            "list it under features.categorical",
        )
    if not feature.is_bag and is_list(plain):
        raise DataError(
            f'{where}: column "{column}" of {feature.kind} feature "{feature.name}" holds '
            f"{arrow_type}",
            "list it under features.list (pooled) or features.sequence (ordered)",
        )
    if feature.derive is not None:
        _check_derive(plain, feature, where)
    if trained_class is not None and found not in (None, trained_class):
        raise DataError(
            f'{where}: column "{column}" of feature "{feature.name}" holds {arrow_type}, '
            f"{_NAMES[found]}, but the feature was trained on {_NAMES[trained_class]}",
            'cast the column to what training saw: 7 and "7" are different values',
        )


def _check_derive(plain: Any, feature: Feature, where: str) -> None:
    values = storage_type(plain.value_type) if pa.types.is_dictionary(plain) else plain
    if pa.types.is_null(values) or pa.types.is_timestamp(values):
        return
    key = f"feature.{feature.name}.derive"
    if not pa.types.is_date(values):
        raise DataError(
            f'{where}: {key} is "{feature.derive}", but column "{feature.column}" holds {plain}',
            "derive from a date or timestamp column; parse strings when the data is written",
        )
    if feature.derive == "hour":
        raise DataError(
            f'{where}: {key} is "hour", but column "{feature.column}" holds {plain}, without hours',
            "derive weekday or day, or store a timestamp",
        )


def _ways_out(plain: Any) -> str:
    if pa.types.is_floating(plain):
        return (
            "list it under features.dense, or bucketize it there; if these are ids (pandas turns "
            "integers with nulls into floats), store them as integers or strings"
        )
    if pa.types.is_decimal(plain):
        return (
            "list it under features.dense, or bucketize it there; if these are ids, store them as "
            "integers or strings"
        )
    if is_list(plain):
        return "store one level of lists"
    if pa.types.is_struct(plain) or pa.types.is_map(plain):
        return "store each field in a column of its own"
    if pa.types.is_time(plain) or pa.types.is_duration(plain) or pa.types.is_interval(plain):
        return "store a timestamp, or an integer number of the unit that matters"
    return "store integers, strings, dates, timestamps, or lists of these"


def is_list(plain: Any) -> bool:
    """Whether values of the type are lists."""
    return bool(
        pa.types.is_list(plain)
        or pa.types.is_large_list(plain)
        or pa.types.is_fixed_size_list(plain)
    )


def is_string(plain: Any) -> bool:
    """Whether values of the type are bytes or text."""
    return bool(
        pa.types.is_string(plain)
        or pa.types.is_binary(plain)
        or pa.types.is_large_string(plain)
        or pa.types.is_large_binary(plain)
        or pa.types.is_fixed_size_binary(plain)
        or pa.types.is_string_view(plain)
        or pa.types.is_binary_view(plain)
    )
