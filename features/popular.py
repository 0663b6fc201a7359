"""Popular values of a hashed feature: rows of their own, or all lookups where others read one.

    hot value i            lookup k reads row hot_base + i * c + k          a value's own rows
    not frequent           lookup 0 as hashed; lookup k >= 1 reads row common_base + k - 1
    frequent, and null     as hashed

The values are named by dictionaries, as those of exact features: their sorted keys. A value that is
hot reads its own rows, frequent or not.

Sources: hot and cold rows, Zhang et al., CAFE (SIGMOD 2024); dimensions by popularity, Ginart et
al., Mixed Dimension Embeddings (2021), here in lookups, so that widths stay as they are.
Letters: n values, c lookups.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from native import hashing as native


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """Some values of a feature, and the region that goes with them."""

    region: str
    keys: NDArray[np.uint64]
    """Sorted, without repetition."""

    def places(self, column: KeyColumn) -> NDArray[np.int64]:
        """Returns the place of each key [n] in `keys`: their number and more where it is none."""
        found = np.empty((1, len(column.keys)), np.int64)
        if found.size:
            native.exact_rows(column.keys, column.nulls, self.keys, 0, 1, found)
        return found[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Popular:
    """What popularity changes in the rows of a hashed feature."""

    hot: Chosen | None
    hot_base: int
    """The first row of the hot values' region."""
    frequent: Chosen | None
    common_base: int
    """The first row that all values share which are not frequent."""

    def change(self, column: KeyColumn, rows: NDArray[np.int64]) -> None:
        """Changes the hashed rows [c, n] of keys to those of popular and of other values."""
        count = len(rows)
        if self.frequent is not None:
            # A null stands behind the last value and one: it keeps its rows.
            is_rare = self.frequent.places(column) == len(self.frequent.keys)
            common = self.common_base + np.arange(count - 1)[:, None]
            np.copyto(rows[1:], common, where=is_rare)
        if self.hot is not None:
            places = self.hot.places(column)
            is_hot = places < len(self.hot.keys)
            own = places * count + (self.hot_base + np.arange(count)[:, None])
            np.copyto(rows, own, where=is_hot)
