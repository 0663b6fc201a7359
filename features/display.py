"""What the keys of a column stand for, as text for people."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrow import storage_type
from features.columns import keys_of
from features.ids import is_list, is_string
from features.schema import Feature

_MAX_LENGTH = 200


def texts_of(keys: NDArray[np.uint64], array: Any, feature: Feature, where: str) -> dict[int, str]:
    """Returns the text of each of `keys`, all of them keys of the column (its values or lists)."""
    plain = _value_type(array.type)
    if feature.derive is not None or not is_string(plain):
        return {int(key): _number_text(key, plain, feature.derive is not None) for key in keys}
    if is_list(storage_type(array.type)):
        array = pc.list_flatten(array)
        feature = dataclasses.replace(feature, kind="categorical", pooling=None, max_length=None)
    column = keys_of(array, feature, where)
    seen = column.keys
    if column.nulls is not None:
        rows = np.flatnonzero(column.nulls == 0)
        seen = seen[rows]
    else:
        rows = np.arange(len(seen))
    first, places = np.unique(seen, return_index=True)
    chosen = rows[places[np.searchsorted(first, keys)]]
    taken = array.take(pa.array(chosen))
    if isinstance(taken, pa.ChunkedArray):
        taken = taken.combine_chunks()
    if isinstance(taken.type, pa.BaseExtensionType):
        taken = taken.storage
    if pa.types.is_dictionary(taken.type):
        taken = taken.dictionary_decode()
    values = taken.cast(pa.large_binary()).to_pylist()
    return {int(key): _string_text(value) for key, value in zip(keys, values, strict=True)}


def _value_type(arrow_type: Any) -> Any:
    plain = storage_type(arrow_type)
    if is_list(plain):
        plain = storage_type(plain.value_type)
    if pa.types.is_dictionary(plain):
        plain = storage_type(plain.value_type)
    return plain


def _number_text(key: np.uint64, plain: Any, is_derived: bool) -> str:
    signed = int(key.astype(np.int64))
    if is_derived:
        return str(signed)
    if pa.types.is_boolean(plain):
        return "true" if signed else "false"
    if pa.types.is_timestamp(plain):
        return str(np.datetime64(signed, "us"))
    if pa.types.is_date(plain):
        return str(np.datetime64(signed, "D"))
    return str(int(key)) if pa.types.is_uint64(plain) else str(signed)


def _string_text(value: bytes) -> str:
    text = value.decode("utf-8", errors="backslashreplace")
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."
