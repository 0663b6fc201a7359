"""Table kernels: rows to vectors, and gradients to one optimizer step for each touched row.

Letters: R rows of the table, width floats each; B samples, L univalent lookups, c lookups of a
list feature with n values, W floats of a sample's output. Tables and their states have contiguous
rows any distance apart. Every function releases the GIL, checks every row number before it writes
anything (IndexError names the first bad one), and gives the same bits for any number of threads
and any instruction set.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import matrix, vector

Table = NDArray[np.float32]
Rows = NDArray[np.int64]
Optimizer = Literal["rowwise_adagrad", "adagrad", "adam", "sgd"]
InstructionSet = Literal["baseline", "avx2", "avx512"]
Bag = tuple[Rows, Rows, bool, int]

_OPTIMIZERS: dict[str, int] = {"rowwise_adagrad": 0, "adagrad": 1, "adam": 2, "sgd": 3}


def gather(table: Table, rows: Rows, columns: Rows, out: Table, threads: int = 1) -> None:
    """Copies rows: out[b, columns[l] : columns[l] + width] = table[rows[l, b]]."""
    _native.gather(
        matrix(table, np.float32, "table"),
        matrix(rows, np.int64, "rows"),
        vector(columns, np.int64, "columns"),
        matrix(out, np.float32, "out", write=True),
        threads,
    )


def gather_bags(
    table: Table, rows: Rows, offsets: Rows, mean: bool, column: int, out: Table, threads: int = 1
) -> None:
    """Pools the rows [c, n] of a list feature within each lookup.

    The sum (or mean) of table[rows[k, offsets[b] : offsets[b + 1]]] goes to
    out[b, column + k * width :]; an empty bag gives zeros.
    """
    _native.gather_bags(
        matrix(table, np.float32, "table"),
        matrix(rows, np.int64, "rows"),
        vector(offsets, np.int64, "offsets"),
        mean,
        column,
        matrix(out, np.float32, "out", write=True),
        threads,
    )


def update(
    optimizer: Optimizer,
    table: Table,
    states: tuple[Table, ...],
    rows: Rows,
    columns: Rows,
    bags: Sequence[Bag],
    grad: Table,
    learning_rate: float,
    eps: float = 1e-8,
    beta1: float = 0.9,
    beta2: float = 0.999,
    step: int = 1,
    threads: int = 1,
) -> int:
    """Applies one optimizer step for a whole batch and returns how many rows it touched.

    `rows` [L, B], `columns` and `bags` (rows [c, n], offsets [B + 1], mean, column) are those of
    the lookups that made the output whose gradient is `grad` [B, W]. The gradients of a row
    that was looked up several times are summed first: lookup by lookup, samples inside, then bags.

    States and steps, with g the summed gradient of row r:

        rowwise_adagrad  (s[R],)             s += mean(g^2);  w -= lr * g / (sqrt(s) + eps)
        adagrad          (s[R, width],)      s += g^2;        w -= lr * g / (sqrt(s) + eps)
        adam             (m, v) [R, width]   as torch.optim.SparseAdam at the global `step`, from 1
        sgd              ()                  w -= lr * g
    """
    number = _OPTIMIZERS.get(optimizer)
    if number is None:
        raise ValueError(f'optimizer "{optimizer}" is none of {", ".join(_OPTIMIZERS)}')
    check_state = vector if optimizer == "rowwise_adagrad" else matrix
    for place, state in enumerate(states):
        check_state(state, np.float32, f"states[{place}]", write=True)
    for place, (bag_rows, offsets, _, _) in enumerate(bags):
        matrix(bag_rows, np.int64, f"bags[{place}].rows")
        vector(offsets, np.int64, f"bags[{place}].offsets")
    return _native.update(
        number,
        matrix(table, np.float32, "table", write=True),
        states,
        matrix(rows, np.int64, "rows"),
        vector(columns, np.int64, "columns"),
        list(bags),
        matrix(grad, np.float32, "grad"),
        learning_rate,
        eps,
        beta1,
        beta2,
        step,
        threads,
    )


def instruction_set() -> str:
    """Returns the instruction set the kernels run with: baseline, avx2 or avx512."""
    return _native.instruction_set()


def choose(name: InstructionSet) -> None:
    """Makes the kernels of this process run with another instruction set (for tests)."""
    _native.choose(name)
