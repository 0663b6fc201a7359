"""Batches on their way to the table: keys out of the input, rows out of the layout.

Letters: B samples, F univalent features, L univalent lookups, c lookups of one feature, n values of
a list feature over a batch, D dense columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from features.readers.base import Reader


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
class Part:
    """What one feature read, where a reader makes its vectors.

    Its rows are c x m of the batch's, lookup by lookup; `extra` is the reader's. Lists and
    sequences have offsets: each value is combined by itself, and then they are pooled.
    """

    reader: Reader
    shape: tuple[int, int]
    extra: NDArray[Any] | None
    offsets: NDArray[np.int64] | None
    mean: bool


@dataclass(frozen=True, slots=True)
class RowBatch:
    """A batch after routing: what a table engine looks up.

    Lookup l of sample i is rows[l, i] and goes to out[i, columns[l]:].

    Where features have readers, their rows stand one behind the other as if each were a sample of
    its own, and `parts` make the embedding of what was looked up (`sharding.assemble`).
    """

    num_rows: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    bags: tuple[Bag, ...]
    out_width: int
    parts: tuple[Part, ...] = ()
