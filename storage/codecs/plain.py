"""Floats of fewer bits: each value by itself, rounded to the nearest, ties to even."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from native import codecs
from storage.codecs.base import KernelCodec, Values

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Float32Codec(KernelCodec):
    """The rows as they are."""

    name: ClassVar[str] = "float32"
    kind: ClassVar[codecs.Kind] = "float32"
    limit: ClassVar[float] = _LARGEST_FLOAT32
    bound: ClassVar[str | None] = "0"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns zeros [n]."""
        return np.zeros(len(rows))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Float16Codec(KernelCodec):
    """IEEE half precision: 11 bits of precision, values up to 65504."""

    name: ClassVar[str] = "float16"
    kind: ClassVar[codecs.Kind] = "float16"
    limit: ClassVar[float] = 65504.0
    bound: ClassVar[str | None] = "2^-11 of the value, or 2^-25"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns for each row [n] what no value of it is off by more than."""
        return np.maximum(_largest(rows) * 2.0**-11, 2.0**-25)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bfloat16Codec(KernelCodec):
    """The upper half of float32: 8 bits of precision, the range of float32."""

    name: ClassVar[str] = "bfloat16"
    kind: ClassVar[codecs.Kind] = "bfloat16"
    limit: ClassVar[float] = (2 - 2.0**-7) * 2.0**127
    bound: ClassVar[str | None] = "2^-8 of the value, or 2^-134"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns for each row [n] what no value of it is off by more than."""
        return np.maximum(_largest(rows) * 2.0**-8, 2.0**-134)


def _largest(rows: Values) -> NDArray[np.float64]:
    return np.abs(rows).max(axis=1).astype(np.float64)
