"""Which rows of the table a value owns: regions, lookups and the layout that routes keys to rows.

Letters: B samples, F univalent features, L univalent lookups, c lookups of one feature, n values of
a list feature over a batch, D dense columns.

    keys u64[F, B] --salt(feature, k), mulhi--> rows i64[L, B]   one native call for all hashed ones
                   --vocabulary-------------->                   one for each exact feature
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.schema import Feature
from features.statistics import KeyClass


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """The keys of one feature over some rows.

    keys     uint64[n]          0 where null; may be a read-only view of the input
    nulls    uint8[n] or None   1 where null; None says that nothing is
    offsets  int64[B + 1]       lists and sequences only: sample i has
                                keys[offsets[i]:offsets[i + 1]]; a null list is a bag of one null,
                                null elements are left out
    """

    keys: NDArray[np.uint64]
    nulls: NDArray[np.uint8] | None = None
    offsets: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class KeyBatch:
    """A batch before routing: what the input stream yields.

    `matrix` and `null_matrix` hold the univalent features in the order of `FeatureSet.univalent`;
    their `columns` are views of it. Without a matrix, `columns` alone count.
    """

    num_rows: int
    columns: dict[str, KeyColumn]
    matrix: NDArray[np.uint64] | None
    null_matrix: NDArray[np.uint8] | None
    dense: NDArray[np.float32]
    label: NDArray[np.float32] | None = None
    weight: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Bag:
    """A list feature's rows.

    Lookup k of sample i pools rows[k, offsets[i]:offsets[i + 1]] into out[i, column + k * width:].
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    mean: bool
    column: int


@dataclass(frozen=True, slots=True)
class RowBatch:
    """A batch after routing: what a table engine looks up.

    Lookup l of sample i is rows[l, i] and goes to out[i, columns[l]:].
    """

    num_rows: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    bags: tuple[Bag, ...]
    out_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A contiguous range of rows."""

    name: str
    kind: Literal["shared", "feature", "exact"]
    base: int
    rows: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One row read for each value: (feature, k). Salts mean nothing in an exact region."""

    feature: str
    k: int
    region: str
    base: int
    rows: int
    salt: int
    null_salt: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureRoute:
    """How one feature's keys become rows and where they stand in the embedding."""

    feature: Feature
    column: int
    """First column of the feature in the embedding."""
    width_total: int
    """Columns of the feature: lookups x width."""
    lookups: tuple[Lookup, ...]
    key_class: KeyClass | None
    vocabulary: NDArray[np.uint64] | None
    """Exact features: their sorted keys."""
    edges: tuple[float, ...] | None
    """Bucketized features: the quantile edges."""

    @property
    def name(self) -> str:
        """The feature's name."""
        return self.feature.name

    @property
    def region(self) -> str:
        """The region all its lookups read."""
        return self.lookups[0].region
