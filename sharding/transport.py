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
# Writes the rows for each of the W ranks; a rank that asked for none gets an empty block.
Write = Callable[[Sequence[Blocks]], None]

WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What a rank sends for counts when it cannot go on.
_FAILED = -1


class Transport(Protocol):
    """Both calls are collective. What they return is valid until the second next call."""

    def ask(self, numbers: Sequence[Rows] | None) -> list[Rows]:
        """Sends numbers[r] to each rank r and returns what each rank sent here.

        None says that this rank cannot go on: the others raise LostRankError, this one returns.
        """

    def exchange(self, sizes: Sequence[int], out_sizes: Sequence[int], write: Write) -> Blocks:
        """Sends each rank r sizes[r] rows that `write` writes, and returns the out_sizes[r] rows
        that each rank r sent here, rank by rank."""


class NetworkTransport:
    """Collectives of the process group."""

    def __init__(self, ranks: Ranks, width: int, most_rows: int, wire: str) -> None:
        """`most_rows` is the most that one rank owns."""
        self._ranks = ranks
        self._width = width
        self._wire = WIRES[wire]
        self._is_small = most_rows <= 2**32

    def ask(self, numbers: Sequence[Rows] | None) -> list[Rows]:
        """See `Transport.ask`."""
        ranks = self._ranks
        ones = [1] * ranks.world_size
        counts = [_FAILED] * ranks.world_size if numbers is None else [len(n) for n in numbers]
        owed = ranks.exchange(
            torch.empty(ranks.world_size, dtype=torch.int64), torch.tensor(counts), ones, ones
        ).tolist()
        if numbers is None:
            return []
        refuse_failed(owed)
        own = ranks.rank
        flat = np.concatenate([n[: 0 if r == own else None] for r, n in enumerate(numbers)])
        sent = flat.astype(np.uint32).view(np.int32) if self._is_small else flat
        others, counts[own], owed[own] = torch.from_numpy(sent), 0, 0
        received = torch.empty(sum(owed), dtype=others.dtype)
        ranks.exchange(received, others, owed, counts)
        asked: Rows = received.numpy()
        if self._is_small:
            asked = asked.view(np.uint32).astype(np.int64)
        found = split(asked, owed)
        found[own] = numbers[own]
        return found

    def exchange(self, sizes: Sequence[int], out_sizes: Sequence[int], write: Write) -> Blocks:
        """See `Transport.exchange`."""
        own = self._ranks.rank
        rows = np.empty((sum(out_sizes), self._width), np.float32)
        blocks = split(rows, out_sizes)
        sizes, out_sizes = list(sizes), list(out_sizes)
        sizes[own] = out_sizes[own] = 0
        sent = torch.empty(sum(sizes), self._width)
        outs = split(sent.numpy(), sizes)
        outs[own] = blocks[own]
        write(outs)
        received = torch.empty(sum(out_sizes), self._width, dtype=self._wire)
        self._ranks.exchange(received, sent.to(self._wire), out_sizes, sizes)
        for rank, part in enumerate(torch.split(received, out_sizes)):
            if rank != own:
                torch.from_numpy(blocks[rank]).copy_(part)
        return rows


def split(array: NDArray[Item], sizes: Sequence[int]) -> list[NDArray[Item]]:
    """Returns the array's rows in consecutive parts."""
    ends = accumulate(sizes, initial=0)
    return [array[first:end] for first, end in pairwise(ends)]


def refuse_failed(counts: Sequence[int]) -> None:
    """Raises LostRankError where a rank said that it cannot go on."""
    failed = [rank for rank, count in enumerate(counts) if count == _FAILED]
    if failed:
        raise LostRankError(
            f"rank {failed[0]} stopped at an error of its own before it looked its batch up",
            "look at what that rank says",
        )
