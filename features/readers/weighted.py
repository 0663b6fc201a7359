"""Hash Embedding (Svenstrup et al., NeurIPS 2017): a sum of rows weighted by learned importances.

e(v) = sum over k of p_k(v) E[h_k(v)], and p(v) = P[h'(v)] are H numbers of the table too: a row of
width d holds d // H such sets side by side. They are learned as what is added to 1 / sqrt(H), so
that a table that starts near zero starts as a plain sum.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from features.batches import KeyColumn
from features.hashed import Hashing
from features.readers.base import Array, Reader, Reading

IMPORTANCE = "\0importance"


@dataclass(frozen=True, slots=True, eq=False)
class WeightedReader(Reader):
    """H rows of `components` and one of `importances`, whose rows count sets, not table rows."""

    kind: ClassVar[str] = "weighted_sum"

    components: Hashing
    importances: Hashing
    importance_base: int
    width: int

    @classmethod
    def of(
        cls,
        components: Hashing,
        name: str,
        hash_seed: int,
        importance_base: int,
        importance_rows: int,
        width: int,
    ) -> "WeightedReader":
        """For importances in rows of their own."""
        sets = width // len(components.feature)
        found = Hashing.named(name + IMPORTANCE, 1, hash_seed, 0, importance_rows * sets)
        return cls(components, found, importance_base, width)

    @property
    def out_width(self) -> int:
        """Floats of a vector: those of a row."""
        return self.width

    @property
    def num_components(self) -> int:
        """H."""
        return len(self.components.feature)

    @property
    def num_lookups(self) -> int:
        """Hash functions into the region."""
        return self.num_components

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return (3 * self.num_components + 2) * self.width

    def read(self, column: KeyColumn, threads: int = 1) -> Reading:
        """Returns rows [H + 1, n], the importances' last, and where they stand there [n, H]."""
        count = self.num_components
        sets = self.width // count
        number = self.importances.rows_of(column.keys, column.nulls, threads)[0]
        row, place = np.divmod(number, sets)
        rows = np.empty((count + 1, len(column.keys)), np.int64)
        rows[:count] = self.components.rows_of(column.keys, column.nulls, threads)
        rows[count] = row + self.importance_base
        first = np.arange(len(row)) * self.width + place * count
        return Reading(rows, first[:, None] + np.arange(count))

    def combine(self, rows: Array, extra: Array | None) -> Array:
        """Returns the weighted sums."""
        count = self.num_components
        weights = rows[count].reshape(-1)[extra] + 1 / math.sqrt(count)
        total = weights[:, 0:1] * rows[0]
        for k in range(1, count):
            total = total + weights[:, k : k + 1] * rows[k]
        return total

    def to_json(self) -> dict[str, Any]:
        """Returns where the importances are."""
        sets = self.width // self.num_components
        return {
            "kind": self.kind,
            "base": self.importance_base,
            "rows": int(self.importances.sizes[0]) // sets,
        }
