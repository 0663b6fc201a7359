"""From the values a stranger's loop has in hand to the keys of features.

What is taken for a feature with one value a sample (B samples):

    numpy or torch integers and booleans [B]; numpy strings, dates, objects [B]; Python lists;
    Arrow arrays, chunked arrays; anything that pyarrow.array reads, such as a pandas Series

and for a list or sequence feature:

    Arrow list arrays; Python lists of lists; numpy or torch [B, T], T values each;
    (values, offsets): values of all samples, int offsets [B + 1], sample i having
    values[offsets[i]:offsets[i + 1]]

None is null, wherever it can stand. Floats are refused: as ids they would be rounded silently.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from features.arrow import storage_type
from features.columns import bucket_keys, keys_of
from features.errors import DataError
from features.hashing import cross_keys
from features.ids import check_type, is_list, key_class
from features.routing import KeyBatch, KeyColumn, Layout
from features.schema import Feature
from features.statistics import KeyClass

WHERE = "UnifiedEmbedding"
_NO_DENSE = np.empty((0, 0), np.float32)
_NAMES: dict[KeyClass | None, str] = {"int": "integers", "string": "strings"}


class ValueReader:
    """Turns a batch of values into keys, and remembers whether a feature's ids are integers or
    strings."""

    def __init__(self, layout: Layout) -> None:
        self._routes = layout.routes
        # By the feature that owns the rows: those that share them share the class too.
        self.key_classes: dict[str, KeyClass | None] = {}
        for route in layout.routes:
            self._settle({route.feature.salt_name: route.key_class})
        self.columns = tuple(
            dict.fromkeys(c for route in layout.routes for c in route.feature.columns)
        )

    def batch(self, values: Mapping[str, Any]) -> KeyBatch:
        """Returns the keys of a dict of values by column name; DataError naming the column that is
        wrong, missing, unknown, or of another length."""
        self._check_names(values)
        columns: dict[str, KeyColumn] = {}
        found: dict[str, KeyClass | None] = {}
        for route in self._routes:
            feature = route.feature
            if feature.kind == "cross":
                parts = [columns[part] for part in feature.parts]
                columns[feature.name] = KeyColumn(cross_keys([(p.keys, p.nulls) for p in parts]))
            elif feature.kind == "bucketized":
                array = _arrow(values[feature.column], feature)
                columns[feature.name] = bucket_keys(array, feature, route.edges or (), WHERE)
            else:
                known = found.get(feature.salt_name) or self.key_classes[feature.salt_name]
                column, one = _read(feature, values[feature.column], known)
                columns[feature.name] = column
                found[feature.salt_name] = known or one
        num_rows = _check_lengths(columns)
        self._settle(found)
        return KeyBatch(num_rows, columns, None, None, _NO_DENSE)

    def column(self, feature: Feature, values: Any) -> KeyColumn:
        """Returns the keys of one categorical, list or sequence feature."""
        column, found = _read(feature, values, self.key_classes[feature.salt_name])
        self._settle({feature.salt_name: found})
        return column

    def _settle(self, found: Mapping[str, KeyClass | None]) -> None:
        """Remembers what a batch held, once all of it was found to be right."""
        for name, one in found.items():
            self.key_classes[name] = self.key_classes.get(name) or one

    def _check_names(self, values: Mapping[str, Any]) -> None:
        for name in values:
            if name not in self.columns:
                raise DataError(
                    f'{WHERE}: there is no feature "{name}"',
                    _nearest(name, self.columns) or f"give {', '.join(self.columns)}",
                )
        for name in self.columns:
            if name not in values:
                raise DataError(
                    f'{WHERE}: the values of "{name}" are missing',
                    f"give a dict with every one of {', '.join(self.columns)}",
                )


def _read(
    feature: Feature, values: Any, known: KeyClass | None
) -> tuple[KeyColumn, KeyClass | None]:
    """The keys of a feature's values, and their class, which has to be the known one."""
    integers = None if feature.is_bag or feature.derive else _integers(values)
    if integers is not None and known != "string":
        return KeyColumn(_keys_of_integers(integers)), "int"
    array = _bags(values, feature) if feature.is_bag else _arrow(values, feature)
    _check_kind(array.type, feature)
    check_type(array.type, feature, WHERE)
    found = key_class(array.type, feature.column, WHERE)
    if None not in (known, found) and known != found:
        raise DataError(
            f'{WHERE}: "{feature.column}" holds {_NAMES[found]}, but has held {_NAMES[known]} '
            "so far",
            'cast to what it has held: 7 and "7" are different values',
        )
    return keys_of(array, feature, WHERE), found


def _check_kind(arrow_type: Any, feature: Feature) -> None:
    """Refuses floats, and lists where there are none, in the words of this module's caller."""
    plain = storage_type(arrow_type)
    is_given_lists = is_list(plain)
    values = storage_type(plain.value_type) if is_given_lists else plain
    if pa.types.is_floating(values):
        raise DataError(
            f'{WHERE}: "{feature.column}" holds {arrow_type}, not ids',
            "if these are ids, cast them to integers or strings; numbers go into the model beside "
            "the embedding",
        )
    if is_given_lists and not feature.is_bag:
        raise DataError(
            f'{WHERE}: "{feature.column}" holds {arrow_type}, but has one value a sample',
            f'declare it with lists={{"{feature.name}": "mean"}} or sequences',
        )
    if feature.is_bag and not is_given_lists and not pa.types.is_null(plain):
        raise DataError(
            f'{WHERE}: "{feature.column}" is a {feature.kind}, but got single values '
            f"({arrow_type})",
            "give a list for each sample, or (values, offsets)",
        )


def _check_lengths(columns: Mapping[str, KeyColumn]) -> int:
    """The number of samples, which all features have to agree on."""
    first_name, num_rows = "", -1
    for name, column in columns.items():
        length = len(column.keys) if column.offsets is None else len(column.offsets) - 1
        if num_rows < 0:
            first_name, num_rows = name, length
        elif length != num_rows:
            raise DataError(
                f'{WHERE}: "{name}" has {length} samples, "{first_name}" has {num_rows}',
                "give every feature one value (or one list) for each sample",
            )
    return num_rows


def _integers(values: Any) -> NDArray[Any] | None:
    """The values as a numpy vector of integers or booleans without copying, or None."""
    if isinstance(values, torch.Tensor):
        if values.dtype.is_floating_point or values.dtype.is_complex:
            return None
        values = _numpy(values)
    # Exactly ndarray: a masked array has nulls to look after.
    if type(values) is np.ndarray and values.dtype.kind in "iub" and values.ndim == 1:
        return values
    return None


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # numpy knows no bfloat16; it is refused all the same, as a float.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _keys_of_integers(values: NDArray[Any]) -> NDArray[np.uint64]:
    if values.dtype == np.int64:
        return values.view(np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64)
    return values.astype(np.uint64)


def _arrow(values: Any, feature: Feature) -> Any:
    """The values as an Arrow array, whatever they came as."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, torch.Tensor):
        values = _numpy(values)
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError(
            f'{WHERE}: "{feature.column}" got a single {type(values).__name__}',
            "give a list or an array with one value for each sample",
        )
    try:
        return _array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as exc:
        raise DataError(
            f'{WHERE}: "{feature.column}" got a {type(values).__name__} that is no column of ids: '
            f"{exc}",
            "give integers or strings, all of one kind, in one list or one-dimensional array",
        ) from exc


def _array(values: Any) -> Any:
    try:
        return pa.array(values)
    except OverflowError:
        # Arrow takes Python integers for signed ones.
        return pa.array(values, pa.uint64())


def _bags(values: Any, feature: Feature) -> Any:
    """The lists as an Arrow list array."""
    if isinstance(values, tuple):
        if len(values) != 2:
            raise DataError(
                f'{WHERE}: "{feature.column}" got a tuple of {len(values)}',
                "give (values, offsets), or lists in a list",
            )
        flat = _arrow(values[0], feature)
        return _list_array(flat, _offsets(values[1], len(flat), feature))
    if isinstance(values, torch.Tensor):
        values = _numpy(values)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        offsets = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
        return _list_array(_arrow(values.reshape(-1), feature), offsets)
    return _arrow(values, feature)


def _list_array(flat: Any, offsets: NDArray[np.int64]) -> Any:
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.combine_chunks()
    return pa.LargeListArray.from_arrays(pa.array(offsets), flat)


def _offsets(offsets: Any, num_values: int, feature: Feature) -> NDArray[np.int64]:
    array = _integers(offsets if isinstance(offsets, torch.Tensor) else np.asarray(offsets))
    if array is None or array.dtype == np.bool_:
        raise DataError(
            f'{WHERE}: the offsets of "{feature.column}" are no vector of integers',
            "give where each sample's values start, and the number of values at the end",
        )
    array = array.astype(np.int64)
    if len(array) == 0 or array[0] != 0 or array[-1] != num_values or (np.diff(array) < 0).any():
        raise DataError(
            f'{WHERE}: the offsets of "{feature.column}" do not rise from 0 to its {num_values} '
            "values",
            "give one offset for each sample and the number of values at the end, as "
            "nn.EmbeddingBag does with include_last_offset=True",
        )
    return array


def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f'did you mean "{near[0]}"?' if near else None
