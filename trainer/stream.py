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
    """Iterates over all rows in the order of the files; no batch crosses the end of a row group."""

    def __init__(
        self,
        dataset: Dataset,
        feature_set: FeatureSet,
        statistics: FeatureStatistics,
        *,
        batch_size: int,
    ) -> None:
        self._decoder = BlockDecoder.build(feature_set, statistics)
        # Row groups up to this size are read at once, larger ones forward in steps of it.
        self._blocks = cut_blocks(dataset.row_groups, MAX_UNIT_ROWS)
        self._reader = BlockReader(
            dataset=dataset,
            decoder=self._decoder,
            blocks=self._blocks,
            block_rows=MAX_UNIT_ROWS,
            segments=SegmentPool(batch_size),
        )
        self._readers = ThreadPoolExecutor(1, "read")
        self._stop_if_forgotten = weakref.finalize(self, _stop, self._readers, wait=False)
        numbers = np.arange(len(self._blocks.num_rows))
        self._source = Source(self._reader, self._readers, numbers)
        self._batches = self._cut()

    def _cut(self) -> Iterator[FileBatch]:
        file, first_row = -1, 0
        for number, rows in enumerate(self._blocks.num_rows.tolist()):
            if self._blocks.file[number] != file:
                file, first_row = int(self._blocks.file[number]), 0
            end = first_row + rows
            while first_row < end:
                segment = self._source.next_segment()
                if self._source.can_read:
                    self._source.read_ahead()
                batch = self._decoder.batch_of(segment)
                yield FileBatch(batch=batch, file=file, first_row=first_row)
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


def _stop(*pools: ThreadPoolExecutor, wait: bool) -> None:
    """Ends pools of threads that wait for one another: all are told before any is waited for."""
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    if wait:
        for pool in pools:
            pool.shutdown(wait=True)


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
