"""Labels and weights of a block of rows, each value checked."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.agreement import check_role_type
from features.errors import DataError


def labels_of(array: Any, column: str, where: str) -> NDArray[np.float32]:
    """Returns the labels as float32[n]; DataError names the row of one that is neither 0 nor 1."""
    values = _numbers(array, column, "label", where)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "no number" if np.isnan(values[row]) else f"{values[row]:g}"
        raise DataError(
            f'{where}: label column "{column}" is {what} in row {row}, not 0 or 1',
            "write 0 and 1; a rating or a duration needs a threshold first",
        )
    return values.astype(np.float32)


def weights_of(array: Any, column: str, where: str) -> NDArray[np.float32]:
    """Returns the weights as float32[n]; DataError names the row of one that cannot weigh."""
    values = _numbers(array, column, "weight", where)
    with np.errstate(over="ignore"):
        weights = values.astype(np.float32)
    wrong = ~((weights >= 0) & np.isfinite(weights))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f'{where}: weight column "{column}" is {values[row]:g} in row {row}',
            "weights are finite numbers of at least 0",
        )
    return weights


def _numbers(array: Any, column: str, role: str, where: str) -> NDArray[np.float64]:
    check_role_type(array.type, column, role, where)
    if array.null_count:
        row = int(np.argmax(np.asarray(array.is_null())))
        raise DataError(
            f'{where}: {role} column "{column}" is null in row {row}',
            f"leave out rows without a {role} when the data is written",
        )
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    # Unsafe lets integers beyond 2^53 round, which makes them neither 0 nor 1, nor a bad weight.
    return np.asarray(array.cast(pa.float64(), safe=False))
