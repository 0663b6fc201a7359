"""The distinct rows of a batch by owner, and the sums of their gradients.

Letters: B samples, L univalent lookups, c lookups of a list feature with n values, N entries in all
(lookup by lookup, then bag by bag), U distinct rows among them, width floats a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import matrix, vector
from native.kernels import Bag, Rows, Table


@dataclass(frozen=True, slots=True)
class Distinct:
    """The distinct rows of a batch, owner by owner, in no order one may rely on inside.

    rows     int64[U]       numbers inside the owner's range
    counts   list of ints   distinct rows of each owner
    places   int64[N]       entry -> its distinct row
    order    uint32[N]      entries by distinct row, in their order inside
    starts   uint32[U + 1]  where a distinct row's entries start in `order`
    """

    rows: Rows
    counts: list[int]
    places: Rows
    order: NDArray[np.uint32]
    starts: NDArray[np.uint32]


def find_distinct(matrices: Sequence[Rows], bounds: Sequence[int]) -> Distinct:
    """Returns the distinct ones among the rows of all matrices ([L, B], then each [c, n]).

    Owner k has the rows bounds[k] .. bounds[k + 1] - 1. Raises IndexError for a row outside.
    """
    for place, rows in enumerate(matrices):
        matrix(rows, np.int64, f"matrices[{place}]")
    found: tuple[Any, ...] = _native.distinct(list(matrices), list(bounds))
    rows, places, order, starts, counts = found
    num_rows = int(counts.sum())
    return Distinct(rows[:num_rows], counts.tolist(), places, order, starts[: num_rows + 1])


def sum_gradients(
    distinct: Distinct,
    rows: Rows,
    columns: Rows,
    bags: Sequence[Bag],
    grad: Table,
    outs: Sequence[Table],
    width: int,
    threads: int = 1,
) -> None:
    """Writes the summed gradient of each distinct row into `outs`, for each owner [count, width].

    `rows`, `columns`, `bags` and `grad` are what `kernels.update` takes, of the batch that
    `distinct` was found in; its row numbers are not read. The gradients of a row are added in the
    order of its entries, as `update` does.
    """
    for place, (bag_rows, offsets, _, _) in enumerate(bags):
        matrix(bag_rows, np.int64, f"bags[{place}].rows")
        vector(offsets, np.int64, f"bags[{place}].offsets")
    for place, out in enumerate(outs):
        matrix(out, np.float32, f"outs[{place}]", write=True)
    _native.sum_gradients(
        vector(distinct.order, np.uint32, "order"),
        vector(distinct.starts, np.uint32, "starts"),
        matrix(rows, np.int64, "rows"),
        vector(columns, np.int64, "columns"),
        list(bags),
        matrix(grad, np.float32, "grad"),
        list(outs),
        width,
        threads,
    )
