"""The fused engine: our own kernels on the CPU behind one autograd function.

A step is one gather and one fused update; the table is bit-identical for any number of threads,
given the same output gradients.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor

from features.errors import ConfigError
from features.routing import RowBatch
from features.settings import TableSettings
from sharding.gradient import OneStep, check_gradient
from sharding.ranks import Ranks
from sharding.shard import Shard, gather
from sharding.table import TableEngine


class FusedEngine(TableEngine):
    """A table in this process's memory, trained by the native kernels."""

    name: ClassVar[str] = "fused"

    def __init__(
        self, rows: int, width: int, settings: TableSettings, threads: int, ranks: Ranks
    ) -> None:
        super().__init__(rows, width, settings, threads, torch.device("cpu"), ranks)
        self._shard = Shard(rows, width, settings, threads)
        self._tensors = self._shard.tensors()

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`."""
        if not torch.is_grad_enabled():
            return self._gather(batch)
        learning_rate = self._learning_rate
        return OneStep.start(
            lambda: self._gather(batch),
            lambda gradient: self._update(batch, gradient, learning_rate),
        )

    def apply_gradient(self, batch: RowBatch, gradient: Tensor) -> None:
        """Applies one optimizer step for a gradient float32[B, W] of a batch's vectors."""
        self._update(batch, gradient.detach(), self._learning_rate)

    def _gather(self, batch: RowBatch) -> Tensor:
        return gather(self._shard.table, batch, self.num_threads)

    def _update(self, batch: RowBatch, gradient: Tensor, learning_rate: float) -> None:
        gradient = check_gradient(gradient, batch.num_rows, batch.out_width)
        if batch.num_rows:
            self._shard.update(batch, gradient.numpy(), learning_rate, self.step + 1)
            if self.on_touched is not None:
                for rows in (batch.rows, *(bag.rows for bag in batch.bags)):
                    self.on_touched(rows.reshape(-1))
        self.step += 1

    @property
    def state_width(self) -> int:
        """The width itself: nothing is padded as far as the optimizer can see."""
        return self.width

    def memory_bytes(self) -> int:
        """Bytes of parameters and optimizer state, padding included."""
        return self._shard.memory_bytes()

    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state."""
        other = type(self)(self.rows, self.width, self.settings, self.num_threads, self.ranks)
        other.copy_from(self)
        return other


def create(
    rows: int,
    width: int,
    settings: TableSettings,
    seed: int,
    threads: int,
    device: torch.device,
    ranks: Ranks,
) -> FusedEngine:
    """Returns a fused engine with the initial values of `seed`."""
    if device.type != "cpu":
        raise ConfigError(
            f'table engine "fused" runs on the CPU, and the device is {device}',
            'set table.engine = "torchrec", or train.device = "cpu"',
        )
    if ranks.world_size > 1:
        raise ConfigError(
            f'table engine "fused" keeps the whole table in one process, and there are '
            f"{ranks.world_size} ranks",
            'set table.engine = "exchange", or leave it "auto"',
        )
    engine = FusedEngine(rows, width, settings, threads, ranks)
    engine._shard.fill(seed, first_row=0)
    return engine
