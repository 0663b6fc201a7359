"""Quotient and remainder (Shi et al., KDD 2020), in any number of digits: a product of rows.

e(v) = gain * E_1[digit 1] * ... * E_K[digit K], elementwise. Every value has a vector of its own.
The product of rows that start small starts much smaller: `gain` brings it back to their size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.readers.base import Array, Reader, Reading
from features.readers.digits import Digits


@dataclass(frozen=True, slots=True, eq=False)
class ProductReader(Reader):
    """One row for each digit, out of a part of the region that has as many rows as its radix."""

    kind: ClassVar[str] = "product"

    digits: Digits
    base: int
    width: int
    gain: float

    @property
    def out_width(self) -> int:
        """Floats of a vector: those of a row."""
        return self.width

    @property
    def vocabulary(self) -> NDArray[np.uint64]:
        """The dictionary."""
        return self.digits.keys

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return 3 * len(self.digits.radices) * self.width

    def read(self, column: KeyColumn, _threads: int = 1) -> Reading:
        """Returns rows [K, n]."""
        starts = self.base + np.cumsum([0, *self.digits.radices[:-1]])
        return Reading(self.digits.of(column) + starts[:, None])

    def combine(self, rows: Array, _extra: Array | None) -> Array:
        """Returns the products."""
        product = rows[0] * self.gain
        for k in range(1, len(self.digits.radices)):
            product = product * rows[k]
        return product

    def to_json(self) -> dict[str, Any]:
        """Returns offset, radices and gain."""
        return {
            "kind": self.kind,
            "offset": self.digits.offset,
            "radices": list(self.digits.radices),
            "gain": self.gain,
        }
