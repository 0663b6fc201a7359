"""The batches of an epoch, read and hashed in the background.

    files --pool of threads--> blocks (keys, permuted) --one thread--> batches --> training

`BatchStream` gives one rank's rows of every global batch of an epoch, from any step on;
`FileStream` all rows in the order of the files, for evaluation and prediction. Both hold about one
block for each of their streams, two more, and `prefetch` batches, whatever the size of the data.
"""

import logging
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from features.batches import KeyBatch
from features.parquet import Dataset
from features.schema import FeatureSet
from features.settings import DataSettings
from features.statistics import FeatureStatistics
from trainer.blocks import BlockDecoder, SegmentPool
from trainer.order import MAX_UNIT_ROWS, Blocks, EpochOrder, cut_blocks, rank_streams
from trainer.sources import BlockReader, ReadAhead, Source

logger = logging.getLogger(__name__)

# Small enough to free a block bit by bit, large enough that a batch is made of few pieces.
_SEGMENT_ROWS = 8192


class BatchStream(Iterator[KeyBatch]):
    """Iterates over one rank's rows of the global batches of an epoch, from `step` on.

    The rows of a batch stand in the order of the streams; a rank may have none of them. The
    sequence of global batches depends on (files, seed, epoch, batch_size) and the settings
    `streams`, `block_rows` and `shuffle` alone, never on rank and world size.
    """

    def __init__(
        self,
        dataset: Dataset,
        feature_set: FeatureSet,
        statistics: FeatureStatistics,
        settings: DataSettings,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        streams = rank_streams(streams=settings.streams, rank=rank, world_size=world_size)
        self._order = EpochOrder.build(
            dataset.row_groups,
            streams=settings.streams,
            block_rows=settings.block_rows,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=settings.shuffle,
        )
        self._world_size = world_size
        self._streams = list(streams)
        self._step = step
        self._submitted = step
        self._prefetch = settings.prefetch
        if epoch == 0 and step == 0:
            _warn_of_large_row_groups(dataset, self._order.blocks)
            if rank == 0:
                _warn_of_idle_ranks(self._order.blocks, world_size)
        positions = [self._order.seek(step, stream) for stream in streams]

        self._decoder = BlockDecoder.build(feature_set, statistics)
        self._reader = BlockReader(
            dataset=dataset,
            decoder=self._decoder,
            blocks=self._order.blocks,
            block_rows=settings.block_rows,
            segments=SegmentPool(_SEGMENT_ROWS),
            seed=seed,
            epoch=epoch,
            shuffle=settings.shuffle,
        )
        self._readers = ThreadPoolExecutor(settings.read_threads, "read")
        self._assembler = ThreadPoolExecutor(1, "assemble")
        self._stop_if_forgotten = weakref.finalize(
            self, _stop, self._readers, self._assembler, wait=False
        )
        self._sources = [
            Source(self._reader, self._readers, self._order.stream_blocks[stream], *position)
            for stream, position in zip(streams, positions, strict=True)
        ]
        self._read_ahead = ReadAhead(self._sources, settings.block_rows)
        self._ready: deque[Future[KeyBatch]] = deque()

    @property
    def num_steps(self) -> int:
        """Global batches of the epoch."""
        return self._order.num_steps

    @property
    def step(self) -> int:
        """The step after the last batch handed out: where a resumed stream starts."""
        return self._step

    def sizes(self, step: int) -> tuple[int, ...]:
        """Returns how many rows of the batch of a step each rank has."""
        shares = self._order.plan.shares(step)
        return tuple(
            int(shares[rank :: self._world_size].sum()) for rank in range(self._world_size)
        )

    def runs(self, step: int) -> tuple[tuple[int, int], ...]:
        """Returns (stream, rows) of this rank's rows in the batch of a step, in their order."""
        shares = self._order.plan.shares(step)
        return tuple((stream, int(shares[stream])) for stream in self._streams if shares[stream])

    def __next__(self) -> KeyBatch:
        if self._step == self.num_steps:
            self.close()
            raise StopIteration
        if not self._stop_if_forgotten.alive:
            raise ValueError("the stream is closed")
        try:
            batch = self._next_batch()
        except BaseException:
            self.close()
            raise
        self._step += 1
        return batch

    def _next_batch(self) -> KeyBatch:
        if self._prefetch == 0:
            return self._assemble(self._step)
        self._fill()
        batch = self._ready.popleft().result()
        # What was taken out is replaced before training gets its batch.
        self._fill()
        return batch

    def _fill(self) -> None:
        while len(self._ready) < self._prefetch and self._submitted < self.num_steps:
            self._ready.append(self._assembler.submit(self._assemble, self._submitted))
            self._submitted += 1

    def _assemble(self, step: int) -> KeyBatch:
        shares = self._order.plan.shares(step)
        pieces = []
        for source, stream in zip(self._sources, self._streams, strict=True):
            pieces += source.take(int(shares[stream]))
        batch = self._decoder.assemble(pieces)
        for source in self._sources:
            source.give_back()
        self._read_ahead.fill()
        return batch

    def close(self) -> None:
        """Stops the threads, waits for them and closes the files; safe to call again."""
        if self._stop_if_forgotten.detach():
            _stop(self._readers, self._assembler, wait=True)
            self._ready.clear()
            for source in self._sources:
                source.close()
            self._sources.clear()
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBatch:
    """A batch of neighbouring rows of one file."""

    batch: KeyBatch
    file: int
    first_row: int
    """Row of the file that the batch begins with."""


class FileStream(Iterator[FileBatch]):
    """Iterates over all rows in the order of the files; no batch crosses the end of a block.

    Of several ranks each reads a block in turn. `rounds` says what all of them have at the same
    time.
    """

    def __init__(
        self,
        dataset: Dataset,
        feature_set: FeatureSet,
        statistics: FeatureStatistics,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._decoder = BlockDecoder.build(feature_set, statistics)
        # Row groups up to this size are read at once, larger ones forward in steps of it.
        self._blocks = cut_blocks(dataset.row_groups, MAX_UNIT_ROWS)
        self._batch_size = batch_size
        self._reader = BlockReader(
            dataset=dataset,
            decoder=self._decoder,
            blocks=self._blocks,
            block_rows=MAX_UNIT_ROWS,
            segments=SegmentPool(batch_size),
        )
        self._readers = ThreadPoolExecutor(1, "read")
        self._stop_if_forgotten = weakref.finalize(self, _stop, self._readers, wait=False)
        self._rounds = _deal(self._blocks, world_size)
        dealt = [number for blocks in self._rounds for number in blocks[rank]]
        self._numbers = np.array(dealt, np.int64)
        self._source = Source(self._reader, self._readers, self._numbers)
        self._batches = self._cut()

    def rounds(self) -> Iterator[list[list[int]]]:
        """Yields round by round the rows of each rank's batches.

        All ranks see the same. The rows of a round stand rank by rank in the order of the files.
        """
        rows = self._blocks.num_rows
        for blocks in self._rounds:
            yield [
                [size for number in own for size in _cut(int(rows[number]), self._batch_size)]
                for own in blocks
            ]

    def nothing(self) -> KeyBatch:
        """Returns a batch without rows."""
        return self._decoder.assemble([])

    def _cut(self) -> Iterator[FileBatch]:
        blocks = self._blocks
        # First row of each block inside its file.
        before = np.cumsum(blocks.num_rows) - blocks.num_rows
        opens = np.append(True, blocks.file[1:] != blocks.file[:-1])
        starts = before - np.maximum.accumulate(np.where(opens, before, 0))
        for number in self._numbers.tolist():
            first_row = int(starts[number])
            end = first_row + int(blocks.num_rows[number])
            while first_row < end:
                segment = self._source.next_segment()
                if self._source.can_read:
                    self._source.read_ahead()
                batch = self._decoder.batch_of(segment)
                yield FileBatch(batch=batch, file=int(blocks.file[number]), first_row=first_row)
                first_row += segment.num_rows

    def __next__(self) -> FileBatch:
        try:
            return next(self._batches)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops the thread, waits for it and closes the files; safe to call again."""
        if self._stop_if_forgotten.detach():
            _stop(self._readers, wait=True)
            self._source.close()
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _deal(blocks: Blocks, world_size: int) -> list[list[list[int]]]:
    """Deals blocks in rounds: for each round the numbers of each rank's blocks.

    A block of an oversized row group is a round of its own, always rank 0's: its row group must be
    read forward by one rank, and that one need keep nothing for later.
    """
    rounds: list[list[list[int]]] = []
    for number, is_forward in enumerate(blocks.is_forward.tolist()):
        is_open = rounds and not rounds[-1][-1] and not blocks.is_forward[number - 1]
        if is_forward or not is_open:
            rounds.append([[] for _ in range(world_size)])
        own = next(own for own in rounds[-1] if not own)
        own.append(number)
    return rounds


def _cut(rows: int, size: int) -> list[int]:
    return [min(size, rows - first) for first in range(0, rows, size)]


def _stop(*pools: ThreadPoolExecutor, wait: bool) -> None:
    """Ends pools of threads that wait for one another: all are told before any is waited for."""
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    if wait:
        for pool in pools:
            pool.shutdown(wait=True)


def _warn_of_idle_ranks(blocks: Blocks, world_size: int) -> None:
    if blocks.num_units < world_size:
        logger.warning(
            "the training data has %d units to read (row groups, or blocks of them), so %d of the "
            "%d ranks read nothing: write smaller row groups, or lower data.block_rows",
            blocks.num_units,
            world_size - blocks.num_units,
            world_size,
        )


def _warn_of_large_row_groups(dataset: Dataset, blocks: Blocks) -> None:
    large = blocks.is_forward.nonzero()[0]
    if len(large):
        number = int(large[0])
        file, group = int(blocks.file[number]), int(blocks.row_group[number])
        rows = dataset.files[file].row_groups[group]
        logger.warning(
            "%s has %d rows: row groups over %d rows are read forward, so their rows mix less and "
            "a resumed run decodes them from their start; write smaller row groups",
            dataset.place(file, group),
            rows,
            MAX_UNIT_ROWS,
        )
