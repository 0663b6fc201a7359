"""Tensor train (TT-Rec, Yin et al., MLSys 2021): a vector is a product of small matrices.

The number of a value has K digits, and digit k picks a core of r_(k-1) x d_k x r_k floats with
r_0 = r_K = 1 and all other ranks r. A row of the table has r floats, so a core is some rows in a
row: d_1 of the first, r x d_k of those between, d_K of the last.

    e(v) = gain * G_1[digit 1] G_2[digit 2] ... G_K[digit K],  d_1 x ... x d_K floats, cut to D
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.readers.base import Array, Reader, Reading
from features.readers.digits import Digits


@dataclass(frozen=True, slots=True, eq=False)
class TensorTrainReader(Reader):
    """One core for each digit; `dims` are d_1 .. d_K, `rank` is the width of the table."""

    kind: ClassVar[str] = "tensor_train"

    digits: Digits
    base: int
    dims: tuple[int, ...]
    rank: int
    width: int
    gain: float

    @property
    def out_width(self) -> int:
        """Floats of a vector."""
        return self.width

    @property
    def vocabulary(self) -> NDArray[np.uint64]:
        """The dictionary."""
        return self.digits.keys

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return 2 * self.rank * sum(core_rows(self.dims, self.rank)) + 4 * self.width

    def read(self, column: KeyColumn, _threads: int = 1) -> Reading:
        """Returns the rows of all cores [c, n]."""
        digits = self.digits.of(column)
        counts = core_rows(self.dims, self.rank)
        base = self.base
        parts = []
        for digit, radix, count in zip(digits, self.digits.radices, counts, strict=True):
            parts.append(base + digit * count + np.arange(count)[:, None])
            base += radix * count
        return Reading(np.concatenate(parts))

    def combine(self, rows: Array, _extra: Array | None) -> Array:
        """Returns the products of the cores."""
        counts = core_rows(self.dims, self.rank)
        by_value = rows.swapaxes(0, 1)
        num_values, rank = by_value.shape[0], self.rank
        product = by_value[:, : counts[0]]
        first = counts[0]
        for dim, count in zip(self.dims[1:-1], counts[1:-1], strict=True):
            core = by_value[:, first : first + count].reshape(num_values, rank, dim * rank)
            product = (product @ core).reshape(num_values, product.shape[1] * dim, rank)
            first += count
        last = by_value[:, first:].swapaxes(1, 2)
        vectors = (product @ last).reshape(num_values, math.prod(self.dims))
        return vectors[:, : self.width] * self.gain

    def to_json(self) -> dict[str, Any]:
        """Returns the shape of the train."""
        return {
            "kind": self.kind,
            "offset": self.digits.offset,
            "radices": list(self.digits.radices),
            "dims": list(self.dims),
            "width": self.width,
            "gain": self.gain,
        }


def core_rows(dims: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Returns how many rows of `rank` floats a core of each digit takes."""
    return (dims[0], *(rank * dim for dim in dims[1:-1]), dims[-1])
