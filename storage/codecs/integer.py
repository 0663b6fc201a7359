"""Row-wise integers: a row keeps its smallest value, a step, and a small integer for each value.

    value = offset + scale * code

int8 keeps scale and offset as float32, int4 and int2 as float16. The rows are those of FBGEMM's
fused tables (`Fused8BitRowwise`, `FusedNBitRowwise`), so that its operators read them.

Source: Guan et al. 2019, arXiv 1911.02079.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from native import codecs
from storage.codecs.base import KernelCodec, Values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Codec(KernelCodec):
    """256 steps between a row's smallest and largest value."""

    name: ClassVar[str] = "int8"
    kind: ClassVar[codecs.Kind] = "int8"
    bound: ClassVar[str | None] = "(max - min) / 510 of the row, + 2^-21 of its largest value"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns for each row [n] what no value of it is off by more than.

        Half a step; then the roundings of scale, product and sum, and of a scale so small that
        float32 has no more digits for it.
        """
        span, largest = _extent(rows)
        return span / 510 + largest * 2.0**-21 + 2.0**-141


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int4Codec(KernelCodec):
    """16 steps between a row's smallest and largest value."""

    name: ClassVar[str] = "int4"
    kind: ClassVar[codecs.Kind] = "int4"
    limit: ClassVar[float] = 65504.0
    bound: ClassVar[str | None] = "(max - min) / 30 of the row, + 2^-9 of its largest value + 2^-20"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns for each row [n] what no value of it is off by more than.

        Half a step, then the roundings of scale and offset to float16.
        """
        span, largest = _extent(rows)
        return span / 30 + largest * 2.0**-9 + 2.0**-20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int2Codec(KernelCodec):
    """4 steps between a row's smallest and largest value."""

    name: ClassVar[str] = "int2"
    kind: ClassVar[codecs.Kind] = "int2"
    limit: ClassVar[float] = 65504.0
    bound: ClassVar[str | None] = "(max - min) / 6 of the row, + 2^-9 of its largest value + 2^-20"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns for each row [n] what no value of it is off by more than; see Int4Codec."""
        span, largest = _extent(rows)
        return span / 6 + largest * 2.0**-9 + 2.0**-20


def _extent(rows: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = rows.astype(np.float64)
    return wide.max(axis=1) - wide.min(axis=1), np.abs(wide).max(axis=1)
