"""Checks that the codecs with shared arrays have in common."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import CodecError
from native import codecs
from storage.codecs.base import Codec, Values

# More rows than that make training slower and the codes hardly better.
SAMPLE_ROWS = 65_536


def finite_sample(rows: Values, width: int, codec: type[Codec]) -> Values:
    """Returns at most SAMPLE_ROWS of the rows [n, width], evenly spread, in memory of their own.

    Raises CodecError where there are none, or a value is not finite or too large.
    """
    if rows.ndim != 2 or rows.dtype != np.float32 or rows.shape[1] != width or not len(rows):
        raise CodecError(
            f"{codec.name}: the sample is {rows.dtype}{list(rows.shape)}, expected "
            f"float32[n, {width}] with n of 1 or more",
            "train the codec on rows of the table",
        )
    step = -(-len(rows) // SAMPLE_ROWS)
    sample = np.ascontiguousarray(rows[::step])
    bad = codecs.first_unfit(sample, codec.limit)
    if bad >= 0:
        raise CodecError(
            f"{codec.name}: row {bad * step} of the sample holds a value that is not finite or "
            f"beyond {codec.limit:.3g}",
            "serve the last good snapshot, and look for the step where training diverged",
        )
    return sample


def float32_array(
    name: str, shared: Mapping[str, NDArray[Any]], key: str, shape: tuple[int, ...]
) -> Values:
    """Returns a shared array; raises CodecError where it is missing or of another shape."""
    array = shared.get(key)
    if array is None or array.dtype != np.float32 or array.shape != shape:
        found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
        raise CodecError(
            f"{name}: the {key} is {found}, expected float32{list(shape)}",
            "fetch the snapshot again; its manifest and its tensors do not belong together",
        )
    if not np.isfinite(array).all():
        raise CodecError(
            f"{name}: the {key} holds a NaN or an infinity", "export the snapshot again"
        )
    return np.ascontiguousarray(array)
