"""HashedNet (Chen et al., ICML 2015): every float of a vector is a number of one pool, signed.

e_j(v) = xi_j(v) w[h_j(v)]. The pool is a table whose rows are one float wide; the sign is the
lowest bit of the very hash whose highest bits are the row.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from features.batches import KeyColumn
from features.hashed import Hashing
from features.readers.base import Array, Reader, Reading


@dataclass(frozen=True, slots=True, eq=False)
class SignedReader(Reader):
    """One hash function for each float of a vector."""

    kind: ClassVar[str] = "signed_scalar"

    hashing: Hashing

    @property
    def out_width(self) -> int:
        """Floats of a vector: one a hash function."""
        return len(self.hashing.feature)

    @property
    def num_lookups(self) -> int:
        """Hash functions into the region."""
        return len(self.hashing.feature)

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return 3 * self.out_width

    def read(self, column: KeyColumn, threads: int = 1) -> Reading:
        """Returns rows [D, n] and signs float32[D, n]."""
        rows = self.hashing.rows_of(column.keys, column.nulls, threads)
        lowest = self.hashing.mixed(column.keys, column.nulls) & np.uint64(1)
        return Reading(rows, np.float32(1) - np.float32(2) * lowest.astype(np.float32))

    def combine(self, rows: Array, extra: Array | None) -> Array:
        """Returns the numbers with their signs."""
        return (rows[:, :, 0] * extra).swapaxes(0, 1)

    def to_json(self) -> dict[str, Any]:
        """Returns the length of a vector: hash functions and region are the feature's."""
        return {"kind": self.kind, "width": self.out_width}
