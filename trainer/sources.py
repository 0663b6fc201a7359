"""The blocks of one stream, read in order by a pool of threads, one block ahead.

A source holds at most the block it gives rows of and the next one; of its reads at most one is
waiting or running, so a row group that must be read forward is never read by two threads at once.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from features.parquet import Dataset, Reader
from trainer.blocks import BlockDecoder, KeyBlock, Piece
from trainer.order import Blocks, Counts, row_order


@dataclass(slots=True)
class BlockReader:
    """Reads and decodes blocks in any number of threads, each with its own open files."""

    dataset: Dataset
    decoder: BlockDecoder
    blocks: Blocks
    seed: int
    epoch: int
    shuffle: bool
    block_rows: int
    _local: threading.local = field(default_factory=threading.local)
    _readers: list[Reader] = field(default_factory=list)

    def read(self, number: int) -> KeyBlock:
        """Returns a block by its number, whatever was read before."""
        blocks = self.blocks
        file, group = int(blocks.file[number]), int(blocks.row_group[number])
        first, rows = int(blocks.first_row[number]), int(blocks.num_rows[number])
        return self._decode(self._reader().rows(file, group, first, rows), number)

    def read_forward(self, number: int) -> Iterator[KeyBlock]:
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

    def _decode(self, table: Any, number: int) -> KeyBlock:
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
        return self.decoder.decode(table, order, where)

    def _reader(self) -> Reader:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self.dataset.open_reader(self.decoder.feature_set.columns)
            self._local.reader = reader
            self._readers.append(reader)
        return reader


class Source:
    """Gives the rows of one stream in order."""

    def __init__(
        self,
        reader: BlockReader,
        pool: ThreadPoolExecutor,
        numbers: Counts,
        place: int,
        offset: int,
    ) -> None:
        """Starts `offset` rows into the block at `place` of the stream's blocks."""
        self._reader = reader
        self._pool = pool
        self._numbers = numbers
        self._place = place
        self._offset = offset
        self._block: KeyBlock | None = None
        self._forward: Iterator[KeyBlock] | None = None
        self._waiting: Future[KeyBlock] | None = None
        self._read_ahead()

    def take(self, num_rows: int) -> list[Piece]:
        """Returns the next rows as pieces of blocks; waits until they are read."""
        pieces = []
        while num_rows:
            block = self._block or self.next_block()
            given = min(num_rows, block.num_rows - self._offset)
            pieces.append((block, self._offset, self._offset + given))
            self._offset += given
            num_rows -= given
            if self._offset == block.num_rows:
                self._block, self._offset = None, 0
        return pieces

    def next_block(self) -> KeyBlock:
        """Returns the next block and has the one behind it read; waits until it is read."""
        if self._waiting is None:
            raise EOFError("all blocks of the stream were given")
        self._block = self._waiting.result()
        self._read_ahead()
        return self._block

    def close(self) -> None:
        """Closes the row group that is read forward; no read may be running."""
        if self._forward is not None:
            self._forward.close()  # type: ignore[attr-defined] # it is a generator
            self._forward = None

    def _read_ahead(self) -> None:
        self._waiting = None
        if self._place < len(self._numbers):
            self._waiting = self._pool.submit(self._read, int(self._numbers[self._place]))
            self._place += 1

    def _read(self, number: int) -> KeyBlock:
        if not self._reader.blocks.is_forward[number]:
            return self._reader.read(number)
        if self._forward is not None:
            block = next(self._forward, None)
            if block is not None:
                return block
        self._forward = self._reader.read_forward(number)
        return next(self._forward)
