"""The order of the data: which rows every global batch holds, as a pure function of the position.

Row groups are cut into blocks, blocks are dealt to streams, and a global batch takes equal shares
of all streams (ARCHITECTURE.md, "The order of the data", fixed). Nothing here reads a file: the
row counts of the footers are all it needs, so a position (epoch, step) is resolved without
touching a row.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from features.errors import ConfigError, DataError
from native import order as native_order

# A row group up to this size is cut into blocks that are dealt one by one; a larger one is read
# forward as one unit, since reaching its last block would mean decoding all that stands before it.
MAX_UNIT_ROWS = 131_072

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """All blocks of a dataset in file order: arrays of one entry a block, and the units."""

    file: Counts
    row_group: Counts
    first_row: Counts
    """First row of the block inside its row group."""
    num_rows: Counts
    is_forward: npt.NDArray[np.bool_]
    """The block belongs to an oversized row group, whose blocks are read one after the other."""
    units: Counts
    """Unit u is made of blocks units[u] .. units[u + 1] - 1."""

    @property
    def num_units(self) -> int:
        """How many units there are to deal."""
        return len(self.units) - 1

    @property
    def total_rows(self) -> int:
        """Rows of the dataset."""
        return int(self.num_rows.sum())


def cut_blocks(row_groups: Sequence[Sequence[int]], block_rows: int) -> Blocks:
    """Cuts the row groups of each file, given by their rows, into blocks of `block_rows` rows."""
    per_file = np.array([len(groups) for groups in row_groups], np.int64)
    rows = np.array([rows for groups in row_groups for rows in groups], np.int64)
    file = np.repeat(np.arange(len(per_file)), per_file)
    group = np.arange(len(rows)) - np.repeat(np.cumsum(per_file) - per_file, per_file)

    pieces = -(-rows // block_rows)
    owner = np.repeat(np.arange(len(rows)), pieces)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first_row = place * block_rows
    is_forward = rows[owner] > MAX_UNIT_ROWS
    opens_unit = ~is_forward | (place == 0)
    return Blocks(
        file=file[owner],
        row_group=group[owner],
        first_row=first_row,
        num_rows=np.minimum(rows[owner] - first_row, block_rows),
        is_forward=is_forward,
        units=np.append(np.flatnonzero(opens_unit), len(owner)),
    )


def deal_blocks(
    blocks: Blocks, *, streams: int, seed: int, epoch: int, shuffle: bool
) -> tuple[Counts, ...]:
    """Returns for each stream the numbers of its blocks in reading order."""
    if shuffle:
        key = native_order.derive("blocks", seed, epoch)
        units = native_order.permutation(blocks.num_units, key).astype(np.int64)
    else:
        units = np.arange(blocks.num_units)
    sizes = np.diff(blocks.units)
    return tuple(
        _expand(blocks.units[:-1], sizes, units[stream::streams]) for stream in range(streams)
    )


def _expand(starts: Counts, sizes: Counts, chosen: Counts) -> Counts:
    """Concatenates the ranges starts[u] .. starts[u] + sizes[u] - 1 of the chosen units."""
    lengths = sizes[chosen]
    shift = starts[chosen] - (np.cumsum(lengths) - lengths)
    return np.repeat(shift, lengths) + np.arange(lengths.sum())


def row_order(
    num_rows: int, *, seed: int, epoch: int, block: int, shuffle: bool
) -> npt.NDArray[np.uint32] | None:
    """Returns the permutation of the rows inside a block; None keeps the order of the file."""
    if not shuffle:
        return None
    return native_order.permutation(num_rows, native_order.derive("rows", seed, epoch, block))


def rank_streams(*, streams: int, rank: int, world_size: int) -> range:
    """Returns the streams a rank reads; raises ConfigError where some rank would have none."""
    if streams < world_size:
        raise ConfigError(
            f"data.streams is {streams}, but there are {world_size} ranks",
            f"set data.streams to at least {world_size}; a multiple of it loads all ranks alike",
        )
    return range(rank, streams, world_size)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Returns the number of global batches of an epoch; the last may be smaller."""
    return -(-rows // batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A run of steps in which every stream gives the same number of rows each time."""

    first_step: int
    num_steps: int
    shares: Counts
    """Rows each stream gives to a batch."""
    consumed: Counts
    """Rows each stream has given before the first step."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How many rows each stream gives to each global batch of an epoch.

    Until a stream runs dry the shares do not change, so an epoch has at most two phases for each
    stream, however many steps it has.
    """

    phases: tuple[Phase, ...]
    num_steps: int

    def phase(self, step: int) -> Phase:
        """Returns the phase that a step belongs to; raises DataError past the end of the epoch."""
        if not 0 <= step < self.num_steps:
            raise DataError(
                f"step {step} lies outside the epoch, which has {self.num_steps} steps",
                "resume with the files and the batch_size that the position was taken with",
            )
        return self.phases[bisect_right(self.phases, step, key=lambda phase: phase.first_step) - 1]

    def shares(self, step: int) -> Counts:
        """Returns the rows that each stream gives to the batch of a step."""
        return self.phase(step).shares

    def consumed(self, step: int) -> Counts:
        """Returns the rows each stream has given before a step; `num_steps` stands for the end."""
        if step == self.num_steps and self.phases:
            step -= 1
            return self.consumed(step) + self.shares(step)
        phase = self.phase(step)
        return phase.consumed + (step - phase.first_step) * phase.shares


def plan_batches(stream_rows: Sequence[int], batch_size: int) -> BatchPlan:
    """Shares `batch_size` rows a step among streams of `stream_rows` rows until all are dry."""
    left = np.array(stream_rows, np.int64)
    consumed = np.zeros_like(left)
    phases: list[Phase] = []
    step = 0
    while left.any():
        shares = _share(left, batch_size)
        giving = shares > 0
        # A stream that gave less than its quota gave all it had, which makes this 1.
        num_steps = int((left[giving] // shares[giving]).min())
        phases.append(
            Phase(first_step=step, num_steps=num_steps, shares=shares, consumed=consumed.copy())
        )
        step += num_steps
        consumed += num_steps * shares
        left -= num_steps * shares
    return BatchPlan(tuple(phases), step)


def _share(left: Counts, batch_size: int) -> Counts:
    """Returns equal shares of a batch, the remainder one each in stream order."""
    shares = np.zeros_like(left)
    need = min(batch_size, int(left.sum()))
    open_streams = np.flatnonzero(left)
    while need:
        quota = np.full(len(open_streams), need // len(open_streams))
        quota[: need % len(open_streams)] += 1
        short = left[open_streams] < quota
        if not short.any():
            shares[open_streams] = quota
            break
        # Who has fewer gives all of it, and the rest share what is then missing.
        dry = open_streams[short]
        shares[dry] = left[dry]
        need -= int(left[dry].sum())
        open_streams = open_streams[~short]
    return shares


def seek(block_rows: Counts, consumed: int) -> tuple[int, int]:
    """Returns (place of the block, rows of it given) after `consumed` rows of a stream."""
    ends = np.cumsum(block_rows)
    place = int(np.searchsorted(ends, consumed, side="right"))
    return place, consumed - int(ends[place - 1] if place else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochOrder:
    """The order of one epoch: the blocks of each stream, and what each gives to each batch."""

    blocks: Blocks
    stream_blocks: tuple[Counts, ...]
    plan: BatchPlan

    @classmethod
    def build(
        cls,
        row_groups: Sequence[Sequence[int]],
        *,
        streams: int,
        block_rows: int,
        batch_size: int,
        seed: int,
        epoch: int,
        shuffle: bool,
    ) -> Self:
        """Resolves the order of an epoch from the row counts in the footers."""
        blocks = cut_blocks(row_groups, block_rows)
        stream_blocks = deal_blocks(
            blocks, streams=streams, seed=seed, epoch=epoch, shuffle=shuffle
        )
        rows = [int(blocks.num_rows[numbers].sum()) for numbers in stream_blocks]
        return cls(blocks=blocks, stream_blocks=stream_blocks, plan=plan_batches(rows, batch_size))

    @property
    def num_steps(self) -> int:
        """Global batches of the epoch."""
        return self.plan.num_steps

    def seek(self, step: int, stream: int) -> tuple[int, int]:
        """Returns where a stream stands before a step: (place in its blocks, rows of it given)."""
        consumed = int(self.plan.consumed(step)[stream])
        return seek(self.blocks.num_rows[self.stream_blocks[stream]], consumed)
