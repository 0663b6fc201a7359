"""Numbers as inputs of the tower: clip, fill, logarithm, standardize, and a column for the missing.

In this order, in float64; the result is float32:

    clip          x = min(max(x, low), high)
    fill          null and NaN become `fill`, where one is given
    log           log1p: log(1 + max(x, 0));  signed: sign(x) log(1 + |x|)
    standardize   (x - mean) / std  of the training data after clip and log; a constant becomes 0
    no fill       null and NaN become that mean, which is 0 when standardized
    missing       a second column, 1 where the value was null or NaN

Infinities are refused: they are a mistake in the data or a division by zero before it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from features.arrow import booleans, chunks_of, fixed_width, null_mask, storage_of, storage_type
from features.errors import DataError, SnapshotError
from features.schema import Feature, FeatureSet
from features.statistics import DenseStatistics, FeatureStatistics

_FIXED = {
    pa.int8(): np.int8,
    pa.int16(): np.int16,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.uint8(): np.uint8,
    pa.uint16(): np.uint16,
    pa.uint32(): np.uint32,
    pa.uint64(): np.uint64,
    pa.float16(): np.float16,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTransform:
    """The transform of one dense feature, with the numbers of the training data inside."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    feature: Feature
    mean: float
    std: float
    has_indicator: bool

    @classmethod
    def build(cls, feature: Feature, statistics: DenseStatistics) -> Self:
        """The transform of `feature` for data like that of `statistics`.

        Raises DataError where the values of the training data are too large to have a mean.
        """
        if not (math.isfinite(statistics.mean) and math.isfinite(statistics.std)):
            raise DataError(
                f'dense feature "{feature.name}" (column "{feature.column}") has values up to '
                f"{statistics.maximum}, too large for a mean and a deviation",
                f"bound them: [feature.{feature.name}] clip, or log",
            )
        indicator = feature.missing
        if indicator is None:
            indicator = statistics.missing_count > 0
        return cls(
            feature=feature, mean=statistics.mean, std=statistics.std, has_indicator=indicator
        )

    @property
    def width(self) -> int:
        """Columns it makes: the value, and the missing indicator if there is one."""
        return 2 if self.has_indicator else 1

    def apply(self, array: Any, where: str) -> NDArray[np.float32]:
        """Returns float32[n], or [n, 2] with the missing indicator, each column contiguous.

        Raises DataError naming column and row of an infinity, or of a value beyond float32.
        """
        feature = self.feature
        values, missing = numbers_of(array, feature.column, where)
        values = clip_and_log(feature, values, missing)
        if feature.standardize:
            values -= self.mean
            values *= 1 / self.std if self.std > 0 else 0.0
        if missing is not None and feature.fill is None:
            values[missing] = 0.0 if feature.standardize else self.mean
        out = np.empty((self.width, len(values)), np.float32)
        with np.errstate(over="ignore"):
            out[0] = values
        _refuse_infinite(out[0], feature.column, where, "too large for float32 after its transform")
        if not self.has_indicator:
            return out[0]
        out[1] = 0 if missing is None else missing
        return out.T

    def to_json(self) -> dict[str, Any]:
        """A JSON object for manifests; `from_json` reads it back."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "DenseTransform":
        """Reads `to_json` back; raises SnapshotError where it is anything else."""
        try:
            return _ADAPTER.validate_json(json.dumps(tree))
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            key = ".".join(map(str, error["loc"]))
            raise SnapshotError(
                f"a dense transform is damaged or foreign: {key}: {error['msg']}",
                "read a manifest that this version of muxtable wrote",
            ) from exc


_ADAPTER = TypeAdapter(DenseTransform)


def build_transforms(
    feature_set: FeatureSet, statistics: FeatureStatistics
) -> tuple[DenseTransform, ...]:
    """The transforms of all dense features, in their order."""
    return tuple(
        DenseTransform.build(feature, statistics.dense[feature.name])
        for feature in feature_set.dense
    )


def dense_matrix(
    transforms: Sequence[DenseTransform], table: Any, where: str
) -> NDArray[np.float32]:
    """Returns float32[n, D]: the columns of all transforms side by side, for an Arrow table."""
    out = np.empty((table.num_rows, sum(t.width for t in transforms)), np.float32)
    column = 0
    for transform in transforms:
        values = transform.apply(table.column(transform.feature.column), where)
        out[:, column : column + transform.width] = values.reshape(-1, transform.width)
        column += transform.width
    return out


def clip_and_log(
    feature: Feature, values: NDArray[np.float64], missing: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Applies clip, fill and logarithm in place, and returns `values`.

    The profile takes mean and deviation of the result, the missing values left out.
    """
    if feature.clip is not None:
        np.clip(values, *feature.clip, out=values)
    if missing is not None:
        values[missing] = 0.0 if feature.fill is None else feature.fill
    if feature.log == "log1p":
        np.maximum(values, 0, out=values)
        np.log1p(values, out=values)
    elif feature.log == "signed":
        sign = np.sign(values)
        np.abs(values, out=values)
        np.log1p(values, out=values)
        values *= sign
    return values


def numbers_of(
    array: Any, column: str, where: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Returns a column as fresh float64[n], and where it is missing (null or NaN), None if nowhere.

    Raises DataError naming the column: of a type that holds no numbers, or with the row of an
    infinity.
    """
    check_numeric(array.type, column, where)
    parts = [_numbers(storage_of(chunk)) for chunk in chunks_of(array)]
    if len(parts) == 1:
        values, nulls = parts[0]
    else:
        values = np.concatenate([part[0] for part in parts] or [np.empty(0)])
        nulls = np.concatenate([part[1] for part in parts] or [np.empty(0, bool)])
    # One cheap pass settles the usual case of a column without nulls, NaN and infinities.
    if not nulls.any() and np.isfinite(values).all():
        return values, None
    values[nulls] = np.nan
    _refuse_infinite(values, column, where, "an infinity")
    missing = np.isnan(values)
    return values, missing if missing.any() else None


def check_numeric(arrow_type: Any, column: str, where: str) -> None:
    """Raises DataError unless values of `arrow_type` are numbers."""
    plain = storage_type(arrow_type)
    if pa.types.is_dictionary(plain):
        plain = plain.value_type
    if plain in _FIXED or pa.types.is_boolean(plain) or pa.types.is_decimal(plain):
        return
    if pa.types.is_null(plain):
        return
    if pa.types.is_temporal(plain):
        fix = "list it under features.categorical, with derive, or store a number of days or hours"
    elif pa.types.is_nested(plain):
        fix = "store each number in a column of its own"
    else:
        fix = "list it under features.categorical, or store it as numbers"
    raise DataError(f'{where}: dense column "{column}" holds {arrow_type}, not numbers', fix)


def _numbers(array: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values and where they are null; unspecified values there."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    mask = null_mask(array)
    nulls = np.zeros(len(array), bool) if mask is None else mask.view(bool)
    if pa.types.is_null(array.type):
        return np.zeros(len(array)), nulls
    if pa.types.is_boolean(array.type):
        return booleans(array).astype(np.float64), nulls
    return fixed_width(array, _FIXED[array.type]).astype(np.float64), nulls


def _refuse_infinite(values: NDArray[Any], column: str, where: str, what: str) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise DataError(
            f'{where}: dense column "{column}" holds {what} in row {row} ({values[row]})',
            "clean the data (null is allowed), or bound the values with clip or log",
        )
