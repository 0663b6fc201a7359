"""ROBE-Z (Desai et al., MLSys 2022): blocks of Z neighbours out of one circular pool of numbers.

Float j of a vector is w[(start_b + j mod Z) mod M] for its block b = j div Z; the pool is a table
whose rows are one float wide, and a block may start anywhere in it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from features.batches import KeyColumn
from features.hashed import Hashing
from features.readers.base import Array, Reader, Reading, side_by_side


@dataclass(frozen=True, slots=True, eq=False)
class RingReader(Reader):
    """One hash function for each block of `block` floats."""

    kind: ClassVar[str] = "ring_block"

    hashing: Hashing
    block: int
    width: int

    @property
    def out_width(self) -> int:
        """Floats of a vector."""
        return self.width

    @property
    def num_lookups(self) -> int:
        """Hash functions into the region."""
        return len(self.hashing.feature)

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return 2 * self.width

    def read(self, column: KeyColumn, threads: int = 1) -> Reading:
        """Returns rows [D, n]."""
        base, size = int(self.hashing.bases[0]), int(self.hashing.sizes[0])
        starts = self.hashing.rows_of(column.keys, column.nulls, threads) - base
        places = starts[:, None, :] + np.arange(self.block)[None, :, None]
        # One turn is enough: a block is never longer than the ring.
        places -= size * (places >= size)
        in_order = places.reshape(len(starts) * self.block, len(column.keys))
        return Reading(in_order[: self.width] + base)

    def combine(self, rows: Array, _extra: Array | None) -> Array:
        """Returns the numbers side by side."""
        return side_by_side(rows, self.width)

    def to_json(self) -> dict[str, Any]:
        """Returns the length of a block and of a vector."""
        return {"kind": self.kind, "block": self.block, "width": self.width}
