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

import logging
from collections.abc import Callable, Sequence
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
from sharding import shared_memory
from sharding.bounds import shard_bounds
from sharding.gradient import OneStep, check_gradient
from sharding.ranks import Ranks
from sharding.shard import Shard, gather
from sharding.table import TableEngine
from sharding.transport import Blocks, Counts, NetworkTransport, Transport, split

logger = logging.getLogger(__name__)

_ZERO = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a batch asked of whom."""

    batch: RowBatch  # its rows are places among the distinct ones
    distinct: distinct.Distinct
    rows: NDArray[np.int64]  # the local numbers all ranks asked of this one, rank by rank
    counts: Counts  # who asked how many of whom


class ExchangeEngine(TableEngine):
    """This rank's part of a table that all ranks look up and train."""

    name: ClassVar[str] = "exchange"

    def __init__(
        self,
        rows: int,
        width: int,
        settings: TableSettings,
        threads: int,
        ranks: Ranks,
        transport: Transport,
    ) -> None:
        super().__init__(rows, width, settings, threads, torch.device("cpu"), ranks)
        self._bounds = shard_bounds(rows, ranks.world_size)
        self._transport = transport
        self._shard = Shard(self.num_local_rows, width, settings, threads)
        self._tensors = self._shard.tensors()

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`.

        A row outside the table is an IndexError on its rank and a LostRankError on the others.
        """
        return self.begin(batch)()

    def begin(self, batch: RowBatch) -> Callable[[], Tensor]:
        """Asks for the rows of a batch, and returns what gets them."""
        asked = self._ask(batch)
        return lambda: self._fetch(asked)

    def _fetch(self, asked: _Asked) -> Tensor:
        received = self._transport.exchange(
            asked.counts.T, lambda blocks: self._read(asked, blocks)
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
        numbers, counts = self._transport.ask(split(found.rows, found.counts))
        batch = _renumbered(batch, found.places)
        return _Asked(batch, found, np.concatenate(numbers), counts)

    def _read(self, asked: _Asked, blocks: Sequence[Blocks]) -> None:
        """Writes the rows that were asked of this rank."""
        sizes = asked.counts[:, self.ranks.rank].tolist()
        for rows, block in zip(split(asked.rows, sizes), blocks, strict=True):
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

        sums = self._transport.exchange(asked.counts, write)
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
        other = type(self)(
            self.rows, self.width, self.settings, self.num_threads, self.ranks, self._transport
        )
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
    transport = _transport(ranks, rows, width, settings)
    engine = ExchangeEngine(rows, width, settings, threads, ranks, transport)
    engine._shard.fill(seed, engine.first_row)
    return engine


def _transport(ranks: Ranks, rows: int, width: int, settings: TableSettings) -> Transport:
    if settings.transport == "shared_memory" or (
        settings.transport == "auto" and ranks.world_size > 1
    ):
        shared = shared_memory.connect(ranks, width, settings.wire)
        if shared is not None:
            return shared
        if settings.transport == "shared_memory":
            raise ConfigError(
                'table.transport is "shared_memory", and not all ranks are on one machine',
                'set table.transport = "network", or leave it "auto"',
            )
        logger.info("the ranks exchange rows over the network")
    return NetworkTransport(ranks, width, shard_bounds(rows, ranks.world_size)[1], settings.wire)
