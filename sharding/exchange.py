"""The exchange engine: the rows lie over all ranks, and each distinct row of a batch travels once.

    rank                                     owner of the rows
    distinct rows of its batch   --numbers-->
                                 <---rows----  gathers them
    vectors of its samples
    gradients, summed by row     -gradients->  sums over the ranks, one optimizer step a row

Plain collectives of `Ranks`, our own kernels, nothing of TorchRec. A row's gradients are summed in
one rank in the batch's order and then in the order of the ranks, so a run is bit-identical to
another one with as many ranks, for any number of threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import ConfigError
from features.routing import Bag, RowBatch
from features.settings import TableSettings
from native import distinct, kernels
from sharding.bounds import shard_bounds
from sharding.gradient import OneStep, check_gradient
from sharding.ranks import Ranks
from sharding.shard import Shard, gather
from sharding.table import TableEngine
from sharding.transport import Blocks, NetworkTransport, split

_ZERO = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a batch asked of whom."""

    batch: RowBatch  # its rows are places among the distinct ones
    distinct: distinct.Distinct
    sizes: list[int]  # rows that each rank asked of this one
    rows: NDArray[np.int64]  # their local numbers, rank by rank


class ExchangeEngine(TableEngine):
    """This rank's part of a table that all ranks look up and train."""

    name: ClassVar[str] = "exchange"

    def __init__(
        self, rows: int, width: int, settings: TableSettings, threads: int, ranks: Ranks
    ) -> None:
        super().__init__(rows, width, settings, threads, torch.device("cpu"), ranks)
        self._bounds = shard_bounds(rows, ranks.world_size)
        self._transport = NetworkTransport(ranks, width, self._bounds[1], settings.wire)
        self._shard = Shard(self.num_local_rows, width, settings, threads)
        self._tensors = self._shard.tensors()

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`.

        A row outside the table is an IndexError on its rank and a LostRankError on the others.
        """
        asked = self._ask(batch)
        received = self._transport.exchange(
            asked.sizes, asked.distinct.counts, lambda blocks: self._read(asked, blocks)
        )
        if not torch.is_grad_enabled():
            return gather(received, asked.batch, self.num_threads)
        learning_rate = self._learning_rate
        return OneStep.start(
            lambda: gather(received, asked.batch, self.num_threads),
            lambda gradient: self._update(asked, gradient, learning_rate),
        )

    def apply_gradient(self, batch: RowBatch, gradient: Tensor) -> None:
        """Applies one optimizer step for a gradient float32[B, W] of a batch's vectors."""
        gradient = check_gradient(gradient.detach(), batch.num_rows, batch.out_width)
        self._update(self._ask(batch), gradient, self._learning_rate)

    def _ask(self, batch: RowBatch) -> _Asked:
        """Tells every owner which of its rows this batch needs, and learns what it owes."""
        matrices = [batch.rows, *(bag.rows for bag in batch.bags)]
        try:
            found = distinct.find_distinct(matrices, self._bounds)
        except IndexError:
            self._transport.ask(None)
            raise
        numbers = self._transport.ask(split(found.rows, found.counts))
        sizes = [len(part) for part in numbers]
        return _Asked(_renumbered(batch, found.places), found, sizes, np.concatenate(numbers))

    def _read(self, asked: _Asked, blocks: Sequence[Blocks]) -> None:
        """Writes the rows that were asked of this rank."""
        for rows, block in zip(split(asked.rows, asked.sizes), blocks, strict=True):
            kernels.gather(self._shard.table, rows[None], _ZERO, block, self.num_threads)

    def _update(self, asked: _Asked, gradient: Tensor, learning_rate: float) -> None:
        batch = asked.batch
        gradient = check_gradient(gradient, batch.num_rows, batch.out_width)

        def write(blocks: Sequence[Blocks]) -> None:
            distinct.sum_gradients(
                asked.distinct,
                batch.rows,
                batch.columns,
                [(bag.rows, bag.offsets, bag.mean, bag.column) for bag in batch.bags],
                gradient.numpy(),
                blocks,
                self.width,
                self.num_threads,
            )

        sums = self._transport.exchange(asked.distinct.counts, asked.sizes, write)
        if len(asked.rows):
            owned = RowBatch(len(asked.rows), asked.rows[None], _ZERO, (), self.width)
            self._shard.update(owned, sums, learning_rate, self.step + 1)
            if self.on_touched is not None:
                self.on_touched(asked.rows)
        self.step += 1

    @property
    def state_width(self) -> int:
        """The width itself: nothing is padded as far as the optimizer can see."""
        return self.width

    def memory_bytes(self) -> int:
        """Bytes of this rank's parameters and optimizer state, padding included."""
        return self._shard.memory_bytes()

    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state; it speaks to the same ranks."""
        other = type(self)(self.rows, self.width, self.settings, self.num_threads, self.ranks)
        other.copy_from(self)
        return other


def _renumbered(batch: RowBatch, places: NDArray[np.int64]) -> RowBatch:
    """Returns the batch with other rows, given in the order of `flat_rows`."""
    end = batch.rows.size
    rows = places[:end].reshape(batch.rows.shape)
    bags = []
    for bag in batch.bags:
        first, end = end, end + bag.rows.size
        bags.append(
            Bag(places[first:end].reshape(bag.rows.shape), bag.offsets, bag.mean, bag.column)
        )
    return RowBatch(batch.num_rows, rows, batch.columns, tuple(bags), batch.out_width)


def create(
    rows: int,
    width: int,
    settings: TableSettings,
    seed: int,
    threads: int,
    device: torch.device,
    ranks: Ranks,
) -> ExchangeEngine:
    """Returns this rank's part of a table with the initial values of `seed`."""
    if device.type != "cpu":
        raise ConfigError(
            f'table engine "exchange" runs on the CPU, and the device is {device}',
            'set table.engine = "torchrec", or train.device = "cpu"',
        )
    engine = ExchangeEngine(rows, width, settings, threads, ranks)
    engine._shard.fill(seed, engine.first_row)
    return engine
