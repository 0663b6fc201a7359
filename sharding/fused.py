"""The fused engine: our own kernels on the CPU behind one autograd function.

Rows lie in huge-page memory allocated once. A step is one gather and one fused update; the table is
bit-identical for any number of threads, given the same output gradients.
"""

from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx

from features.errors import ConfigError
from features.routing import RowBatch
from features.settings import TableSettings
from native import kernels, memory
from native.order import derive
from sharding.gradient import already_applied, check_gradient, refuse_second_order
from sharding.table import STATE_NAMES, TableEngine


class FusedEngine(TableEngine):
    """A table in this process's memory, trained by the native kernels."""

    name: ClassVar[str] = "fused"

    def __init__(self, rows: int, width: int, settings: TableSettings, threads: int) -> None:
        super().__init__(rows, width, settings, threads, torch.device("cpu"))
        self._table = memory.allocate(rows, width)
        self._states = tuple(
            memory.allocate_vector(rows)
            if settings.optimizer == "rowwise_adagrad"
            else memory.allocate(rows, width)
            for _ in STATE_NAMES[settings.optimizer]
        )
        names = ("weight", *STATE_NAMES[settings.optimizer])
        arrays = (self._table, *self._states)
        self._tensors = {
            name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)
        }
        # Autograd runs a node only where an input wants a gradient: this one always does.
        self._hook = torch.zeros(1, requires_grad=True)

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`."""
        if torch.is_grad_enabled():
            return _Lookup.apply(self._hook, self, batch)  # type: ignore[no-untyped-call]
        return self._gather(batch)

    def apply_gradient(self, batch: RowBatch, gradient: Tensor) -> None:
        """Applies one optimizer step for a gradient float32[B, W] of a batch's vectors."""
        self._update(batch, gradient.detach(), self._learning_rate)

    def _update(self, batch: RowBatch, gradient: Tensor, learning_rate: float) -> None:
        gradient = check_gradient(gradient, batch.num_rows, batch.out_width)
        settings = self.settings
        if batch.num_rows:
            kernels.update(
                self.optimizer,
                self._table,
                self._states,
                batch.rows,
                batch.columns,
                [(bag.rows, bag.offsets, bag.mean, bag.column) for bag in batch.bags],
                gradient.numpy(),
                learning_rate,
                settings.eps,
                settings.beta1,
                settings.beta2,
                self.step + 1,
                self.num_threads,
            )
        self.step += 1

    @property
    def state_width(self) -> int:
        """The width itself: nothing is padded as far as the optimizer can see."""
        return self.width

    def memory_bytes(self) -> int:
        """Bytes of parameters and optimizer state, padding included."""
        return sum(array.strides[0] * len(array) for array in (self._table, *self._states))

    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state."""
        other = type(self)(self.rows, self.width, self.settings, self.num_threads)
        for name, tensor in self._tensors.items():
            other._tensors[name].copy_(tensor)
        other.step = self.step
        other.learning_rate = self.learning_rate
        return other

    def _gather(self, batch: RowBatch) -> Tensor:
        # Gather and bags together write every column, so the memory needs no zeros.
        vectors = torch.empty(batch.num_rows, batch.out_width)
        if not batch.num_rows:
            return vectors
        out: NDArray[np.float32] = vectors.numpy()
        if len(batch.rows):
            kernels.gather(self._table, batch.rows, batch.columns, out, self.num_threads)
        for bag in batch.bags:
            kernels.gather_bags(
                self._table, bag.rows, bag.offsets, bag.mean, bag.column, out, self.num_threads
            )
        return vectors


class _Lookup(torch.autograd.Function):
    """Gathers forward, trains the rows backward."""

    @staticmethod
    def forward(ctx: FunctionCtx, _hook: Tensor, engine: FusedEngine, batch: RowBatch) -> Tensor:
        ctx.pending = (engine, batch, engine.learning_rate)  # type: ignore[attr-defined]
        return engine._gather(batch)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[None, None, None]:
        refuse_second_order()
        pending: tuple[FusedEngine, RowBatch, float] | None = ctx.pending  # type: ignore[attr-defined]
        if pending is None:
            raise already_applied()
        engine, batch, learning_rate = pending
        engine._update(batch, gradient, learning_rate)
        ctx.pending = None  # type: ignore[attr-defined]
        return None, None, None


def create(
    rows: int,
    width: int,
    settings: TableSettings,
    seed: int,
    threads: int,
    device: torch.device,
) -> FusedEngine:
    """Returns a fused engine with the initial values of `seed`."""
    if device.type != "cpu":
        raise ConfigError(
            f'table engine "fused" runs on the CPU, and the device is {device}',
            'set table.engine = "torchrec", or train.device = "cpu"',
        )
    engine = FusedEngine(rows, width, settings, threads)
    memory.fill_uniform(
        engine._table, derive("init", seed), settings.init_scale, first_row=0, threads=threads
    )
    return engine
