"""A shard: consecutive rows of a table in this process's memory, and their optimizer's state.

Rows lie in huge-page memory allocated once. Everything is done by the native kernels, which give
the same bits for any number of threads.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.routing import RowBatch
from features.settings import TableSettings
from native import kernels, memory
from native.order import derive

# State tensors of each optimizer, in the kernels' order; the names are FBGEMM's.
STATE_NAMES: dict[str, tuple[str, ...]] = {
    "rowwise_adagrad": ("momentum1",),
    "adagrad": ("momentum1",),
    "adam": ("momentum1", "momentum2"),
    "sgd": (),
}


class Shard:
    """`rows` rows of `width` floats, all zero at first."""

    def __init__(self, rows: int, width: int, settings: TableSettings, threads: int) -> None:
        """MemoryError where the address space has no room."""
        self._settings = settings
        self._threads = threads
        self.table = memory.allocate(rows, width)
        self.states = tuple(
            memory.allocate_vector(rows)
            if settings.optimizer == "rowwise_adagrad"
            else memory.allocate(rows, width)
            for _ in STATE_NAMES[settings.optimizer]
        )

    def fill(self, seed: int, first_row: int) -> None:
        """Writes the initial values of `seed`; `first_row` is where the shard begins."""
        memory.fill_uniform(
            self.table,
            derive("init", seed),
            self._settings.init_scale,
            first_row=first_row,
            threads=self._threads,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns the rows and states by name, sharing memory with them."""
        names = ("weight", *STATE_NAMES[self._settings.optimizer])
        arrays = (self.table, *self.states)
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    def memory_bytes(self) -> int:
        """Bytes of rows and states, padding included."""
        return sum(array.strides[0] * len(array) for array in (self.table, *self.states))

    def update(
        self, batch: RowBatch, gradient: NDArray[np.float32], learning_rate: float, step: int
    ) -> None:
        """Applies optimizer step `step`, from 1, for a gradient [B, W] of a batch's vectors."""
        settings = self._settings
        kernels.update(
            settings.optimizer,
            self.table,
            self.states,
            batch.rows,
            batch.columns,
            [(bag.rows, bag.offsets, bag.mean, bag.column) for bag in batch.bags],
            gradient,
            learning_rate,
            settings.eps,
            settings.beta1,
            settings.beta2,
            step,
            self._threads,
        )


def gather(table: NDArray[np.float32], batch: RowBatch, threads: int) -> Tensor:
    """Returns the vectors float32[B, W] of a batch whose rows are those of `table`."""
    # Gather and bags together write every column, so the memory needs no zeros.
    vectors = torch.empty(batch.num_rows, batch.out_width)
    if not batch.num_rows:
        return vectors
    out: NDArray[np.float32] = vectors.numpy()
    if len(batch.rows):
        kernels.gather(table, batch.rows, batch.columns, out, threads)
    for bag in batch.bags:
        kernels.gather_bags(table, bag.rows, bag.offsets, bag.mean, bag.column, out, threads)
    return vectors
