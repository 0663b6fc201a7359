"""Row-wise float8: 4 bits of exponent, 3 of mantissa (E4M3, no infinities), and a float32 scale.

    value = scale * code          scale = the row's largest size / 448

Source: Micikevicius et al. 2022, arXiv 2209.05433.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from native import codecs
from storage.codecs.base import KernelCodec, Values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Float8Codec(KernelCodec):
    """Small values of a row keep their digits, large ones have four bits of them."""

    name: ClassVar[str] = "float8"
    kind: ClassVar[codecs.Kind] = "float8"
    bound: ClassVar[str | None] = "2^-4 of the value, or 2^-10 of the row's scale"

    def error_bounds(self, rows: Values) -> NDArray[np.float64]:
        """Returns for each row [n] what no value of it is off by more than: that of its largest.

        The last terms are the roundings of scale, quotient and product.
        """
        largest = np.abs(rows).max(axis=1).astype(np.float64)
        return largest * (2.0**-4 + 2.0**-20) + 2.0**-139
