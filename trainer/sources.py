"""The blocks of each stream, read ahead by a pool of threads within a bound on the rows held.

Streams run at one speed, so their blocks end at about the same step and all next blocks are needed
at once. What was used of the current ones is free by then: reading the next block of whichever
stream ends first, whenever a block's worth of rows has been used, keeps the readers busy and holds
hardly more than one block a stream.
"""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from features.parquet import Dataset, Reader
from trainer.blocks import BlockDecoder, Piece, Segment, SegmentPool
from trainer.order import Blocks, Counts, row_order

# Blocks held beyond one for each stream: what is being read, and some slack.
AHEAD_BLOCKS = 2


@dataclass(slots=True, kw_only=True)
class BlockReader:
    """Reads and decodes blocks in any number of threads, each with its own open files."""

    dataset: Dataset
    decoder: BlockDecoder
    blocks: Blocks
    block_rows: int
    segments: SegmentPool
    seed: int = 0
    epoch: int = 0
    shuffle: bool = False
    _local: threading.local = field(default_factory=threading.local)
    _readers: list[Reader] = field(default_factory=list)

    def read(self, number: int) -> list[Segment]:
        """Returns a block by its number, whatever was read before."""
        blocks = self.blocks
        file, group = int(blocks.file[number]), int(blocks.row_group[number])
        first, rows = int(blocks.first_row[number]), int(blocks.num_rows[number])
        return self._decode(self._reader().rows(file, group, first, rows), number)

    def read_forward(self, number: int) -> Generator[list[Segment], None, None]:
        """Yields a block and those behind it in the same row group."""
        blocks = self.blocks
        file, group = int(blocks.file[number]), int(blocks.row_group[number])
        place = int(blocks.first_row[number]) // self.block_rows
        reader = self.dataset.open_reader(self.decoder.feature_set.columns)
        for table in reader.forward(file, group, self.block_rows, place):
            yield self._decode(table, number)
            number += 1

    def close(self) -> None:
        """Closes the files; no read may be running."""
        while self._readers:
            self._readers.pop().close()

    def _decode(self, table: Any, number: int) -> list[Segment]:
        blocks = self.blocks
        order = row_order(
            table.num_rows,
            seed=self.seed,
            epoch=self.epoch,
            block=number,
            shuffle=self.shuffle,
        )
        where = self.dataset.place(
            int(blocks.file[number]), int(blocks.row_group[number]), int(blocks.first_row[number])
        )
        return self.decoder.decode(table, order, where, self.segments)

    def _reader(self) -> Reader:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self.dataset.open_reader(self.decoder.feature_set.columns)
            self._local.reader = reader
            self._readers.append(reader)
        return reader


class Source:
    """Gives the rows of one stream in order.

    It holds what is left of the block it gives rows of and at most one read that waits, runs or is
    done: a row group that must be read forward is never read by two threads at once.
    """

    def __init__(
        self,
        reader: BlockReader,
        pool: ThreadPoolExecutor,
        numbers: Counts,
        place: int = 0,
        offset: int = 0,
    ) -> None:
        """Starts `offset` rows into the block at `place` of the stream's blocks."""
        self._reader = reader
        self._pool = pool
        self._numbers = numbers
        self._place = place
        self._skip = offset
        self._segments: deque[Segment] = deque()
        self._used: list[Segment] = []
        self._offset = 0
        self._forward: Generator[list[Segment], None, None] | None = None
        self._waiting: Future[list[Segment]] | None = None
        self._waiting_rows = 0
        self.rows_left = 0
        """Rows left of the current block."""

    @property
    def rows_held(self) -> int:
        """Rows in memory or on their way."""
        return self.rows_left + self._waiting_rows

    @property
    def can_read(self) -> bool:
        """Whether there is a block to read and no other read."""
        return self._waiting is None and self._place < len(self._numbers)

    def read_ahead(self) -> None:
        """Has the next block read."""
        number = int(self._numbers[self._place])
        self._waiting_rows = int(self._reader.blocks.num_rows[number])
        self._waiting = self._pool.submit(self._read, number)
        self._place += 1

    def take(self, num_rows: int) -> list[Piece]:
        """Returns the next rows as pieces of segments; waits until they are read."""
        pieces = []
        while num_rows:
            if not self._segments:
                self._receive()
            segment = self._segments[0]
            given = min(num_rows, segment.num_rows - self._offset)
            pieces.append((segment, self._offset, self._offset + given))
            num_rows -= given
            self._advance(given)
        return pieces

    def give_back(self) -> None:
        """Lets go of the segments that were used up: of their pieces none may be in use."""
        while self._used:
            self._reader.segments.give_back(self._used.pop())

    def next_segment(self) -> Segment:
        """Returns the next segment whole, for good; waits until it is read."""
        if not self._segments:
            self._receive()
        segment = self._segments.popleft()
        self.rows_left -= segment.num_rows
        return segment

    def close(self) -> None:
        """Drops what is held and closes a row group read forward; no read may be running."""
        self._segments.clear()
        if self._forward is not None:
            self._forward.close()
            self._forward = None

    def _receive(self) -> None:
        """Takes the block that was read ahead; EOFError behind the last one."""
        if self._waiting is None:
            if not self.can_read:
                raise EOFError("all rows of the stream were given")
            self.read_ahead()
            self._receive()
            return
        self._segments.extend(self._waiting.result())
        self._waiting = None
        self.rows_left, self._waiting_rows = self._waiting_rows, 0
        # Only the first block after a resume begins within.
        while self._skip:
            skipped = min(self._skip, self._segments[0].num_rows)
            self._skip -= skipped
            self._advance(skipped)

    def _advance(self, num_rows: int) -> None:
        self._offset += num_rows
        self.rows_left -= num_rows
        if self._offset == self._segments[0].num_rows:
            self._used.append(self._segments.popleft())
            self._offset = 0

    def _read(self, number: int) -> list[Segment]:
        if not self._reader.blocks.is_forward[number]:
            return self._reader.read(number)
        if self._forward is not None:
            segments = next(self._forward, None)
            if segments is not None:
                return segments
        self._forward = self._reader.read_forward(number)
        return next(self._forward)


class ReadAhead:
    """Decides which block is read next, and when there is room for it."""

    def __init__(self, sources: Sequence[Source], block_rows: int) -> None:
        """Begins with a block for each source."""
        self._sources = sources
        # With this many rows held there is room for one more block of any size.
        self._room_below = (len(sources) + AHEAD_BLOCKS - 1) * block_rows
        for source in sources:
            if source.can_read:
                source.read_ahead()
        self.fill()

    def fill(self) -> None:
        """Has blocks read while there is room, first for the sources that run out first."""
        held = sum(source.rows_held for source in self._sources)
        if held > self._room_below:
            return
        waiting = [source for source in self._sources if source.can_read]
        for source in sorted(waiting, key=lambda source: source.rows_left):
            if held > self._room_below:
                return
            source.read_ahead()
            held += source.rows_held - source.rows_left
