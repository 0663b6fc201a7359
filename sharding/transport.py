"""How rows and their numbers get from rank to rank, behind one interface.

    ask        distinct row numbers, by owner   -> the numbers each rank asks of this one
    exchange   for each rank a block of rows    -> the blocks of all ranks, one after another

Only what leaves a rank is rounded to the wire's type; a rank's own rows stay as they are. W ranks.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from features.errors import LostRankError
from sharding.ranks import Ranks

Item = TypeVar("Item", bound=np.generic)
Rows = NDArray[np.int64]
Blocks = NDArray[np.float32]
# counts[s, r]: rows from rank s to rank r, int64[W, W].
Counts = NDArray[np.int64]
# Writes the rows for each of the W ranks; a rank that asked for none gets an empty block.
Write = Callable[[Sequence[Blocks]], None]

WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What a rank sends for counts when it cannot go on.
FAILED = -1


class Transport(Protocol):
    """Both calls are collective. What they return is valid until the next call."""

    def ask(self, numbers: Sequence[Rows] | None) -> tuple[list[Rows], Counts]:
        """Sends numbers[r] to each rank r; returns what each rank sent here, and the counts.

        Of the counts this rank's row and column are right; the others belong to the transport.
        None says that this rank cannot go on: the others raise LostRankError, this one returns.
        """

    def exchange(self, sizes: Counts, write: Write) -> Blocks:
        """Sends each rank r the sizes[own, r] rows that `write` writes, and returns the
        sizes[s, own] rows that each rank s sent here, rank by rank.

        `sizes` are the counts of an `ask`, or for the way back their transpose.
        """


class NetworkTransport:
    """Collectives of the process group."""

    def __init__(self, ranks: Ranks, width: int, most_rows: int, wire: str) -> None:
        """`most_rows` is the most that one rank owns."""
        self._ranks = ranks
        self._width = width
        self._wire = WIRES[wire]
        self._is_small = most_rows <= 2**32

    def ask(self, numbers: Sequence[Rows] | None) -> tuple[list[Rows], Counts]:
        """See `Transport.ask`."""
        own, world_size = self._ranks.rank, self._ranks.world_size
        sizes = [FAILED] * world_size if numbers is None else [len(part) for part in numbers]
        ones = [1] * world_size
        owed = self._ranks.exchange(
            torch.empty(world_size, dtype=torch.int64), torch.tensor(sizes), ones, ones
        ).tolist()
        counts = np.zeros((world_size, world_size), np.int64)
        counts[own], counts[:, own] = sizes, owed
        if numbers is None:
            return [], counts
        refuse_failed(owed)
        flat = np.concatenate([part[: 0 if r == own else None] for r, part in enumerate(numbers)])
        sent = torch.from_numpy(flat.astype(np.uint32).view(np.int32) if self._is_small else flat)
        sizes[own] = owed[own] = 0
        received = self._ranks.exchange(
            torch.empty(sum(owed), dtype=sent.dtype), sent, owed, sizes
        ).numpy()
        asked = received.view(np.uint32).astype(np.int64) if self._is_small else received
        parts = split(asked, owed)
        parts[own] = numbers[own]
        return parts, counts

    def exchange(self, sizes: Counts, write: Write) -> Blocks:
        """See `Transport.exchange`."""
        own = self._ranks.rank
        in_sizes, out_sizes = sizes[:, own].tolist(), sizes[own].tolist()
        rows = np.empty((sum(in_sizes), self._width), np.float32)
        parts = split(rows, in_sizes)
        in_sizes[own] = out_sizes[own] = 0
        sent = torch.empty(sum(out_sizes), self._width)
        blocks = split(sent.numpy(), out_sizes)
        blocks[own] = parts[own]
        write(blocks)
        received = torch.empty(sum(in_sizes), self._width, dtype=self._wire)
        self._ranks.exchange(received, sent.to(self._wire), in_sizes, out_sizes)
        for rank, part in enumerate(torch.split(received, in_sizes)):
            if rank != own:
                torch.from_numpy(parts[rank]).copy_(part)
        return rows


def split(array: NDArray[Item], sizes: Sequence[int]) -> list[NDArray[Item]]:
    """Returns the array's rows in consecutive parts."""
    ends = accumulate(sizes, initial=0)
    return [array[first:end] for first, end in pairwise(ends)]


def refuse_failed(counts: Sequence[int]) -> None:
    """Raises LostRankError where a rank said that it cannot go on."""
    failed = [rank for rank, count in enumerate(counts) if count == FAILED]
    if failed:
        raise LostRankError(
            f"rank {failed[0]} stopped at an error of its own before it looked its batch up",
            "look at what that rank says",
        )
