"""Rows of a value's own, as many as its vector fills: the exact features of every method."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.readers.base import Array, Reader, Reading, side_by_side
from native import hashing as native


@dataclass(frozen=True, slots=True, eq=False)
class ExactReader(Reader):
    """`count` consecutive rows a value from row `base` on, cut to `width` floats."""

    kind: ClassVar[str] = "exact"

    base: int
    count: int
    width: int
    keys: NDArray[np.uint64]

    @property
    def out_width(self) -> int:
        """Floats of a vector."""
        return self.width

    @property
    def vocabulary(self) -> NDArray[np.uint64]:
        """The sorted keys of the values."""
        return self.keys

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return 2 * self.width

    def read(self, column: KeyColumn, _threads: int = 1) -> Reading:
        """Returns the rows [count, n]; see `native.hashing.exact_rows`."""
        rows = np.empty((self.count, len(column.keys)), np.int64)
        if rows.size:
            native.exact_rows(column.keys, column.nulls, self.keys, self.base, self.count, rows)
        return Reading(rows)

    def combine(self, rows: Array, _extra: Array | None) -> Array:
        """Returns the rows side by side."""
        return side_by_side(rows, self.width)

    def to_json(self) -> dict[str, Any]:
        """Returns the count and the width; base and keys are the region's."""
        return {"kind": self.kind, "count": self.count, "width": self.width}
