"""The transport between ranks of one machine: each writes straight into the others' memory.

One piece of memory, mapped by all W ranks. It has no name: it is gone with the last process that
maps it, however that one ends. Its pages become resident when they are first written.

    arrivals   u32           the barrier's counter
    token      16 bytes      tells this memory from any other
    processes  i64[W]        process numbers
    counts     2 x i64[W, W] counts[r, o]: rows that rank r asks of rank o
    areas      for each rank:
      numbers  2 x i64[...]  the rows it asks for, owner by owner
      inboxes  2 x [..., width], float32 or the wire's type: what ranks sent, rank by rank

To ask is: write one's own numbers, meet, read those of the others. An exchange is: write into the
inboxes of all ranks, meet, read one's own. Of each there are two that take turns, so that a rank
may already write into one while a slow rank still reads the other: nobody comes to it again before
all have met once more.
"""

import json
import logging
import mmap
import os
import secrets
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import ConfigError, LostRankError
from native.barrier import Barrier
from sharding.ranks import Ranks
from sharding.transport import (
    FAILED,
    WIRES,
    Blocks,
    Counts,
    Rows,
    Write,
    refuse_failed,
    split,
)

logger = logging.getLogger(__name__)

_TOKEN_AT, _TOKEN_BYTES = 64, 16
_PROCESSES_AT = 4096
# Of a rank's numbers and of each inbox. Only address space: what is not written takes no memory.
_AREA_BYTES = 16 << 30
# How long a rank waits before it looks whether the others live.
_LOOK_S = 0.05
# Some 50 us: where each rank has a core, they meet quicker without the scheduler.
_SPINS = 2000


class _Lives:
    """The processes of all ranks, to see which has ended."""

    def __init__(self, processes: Sequence[int]) -> None:
        """OSError where a process cannot be watched."""
        self._poll = select.poll()
        self._ranks: dict[int, int] = {}
        for rank, process in enumerate(processes):
            handle = os.pidfd_open(process)
            self._ranks[handle] = rank
            self._poll.register(handle, select.POLLIN)

    def ended(self) -> int | None:
        """Returns a rank whose process has ended."""
        return next((self._ranks[handle] for handle, _ in self._poll.poll(0)), None)

    def __del__(self) -> None:
        for handle in self._ranks:
            os.close(handle)


class SharedTransport:
    """Memory that all ranks of a machine write and read."""

    def __init__(
        self, ranks: Ranks, memory: mmap.mmap, lives: _Lives, width: int, wire: str
    ) -> None:
        """Use `connect`."""
        world_size = ranks.world_size
        self._ranks = ranks
        self._lives = lives
        self._wire = WIRES[wire]

        def view(dtype: Any, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
            return np.ndarray(shape, dtype, memory, offset)

        counts_at = _PROCESSES_AT + 8 * world_size
        self._counts: Counts = view(np.int64, (2, world_size, world_size), counts_at)
        item = 4 if self._wire is torch.float32 else 2
        dtype = np.float32 if self._wire is torch.float32 else np.int16
        self._most_rows = _AREA_BYTES // (8 + item * width)

        def areas(dtype: Any, shape: tuple[int, ...], place: int) -> list[NDArray[Any]]:
            starts = [(4 * rank + place) * _AREA_BYTES for rank in range(world_size)]
            return [view(dtype, shape, _areas_at(world_size) + start) for start in starts]

        self._numbers = [areas(np.int64, (self._most_rows,), turn) for turn in range(2)]
        self._inboxes = [areas(dtype, (self._most_rows, width), 2 + turn) for turn in range(2)]
        self._asks = self._exchanges = 0
        spins = _SPINS if world_size <= len(os.sched_getaffinity(0)) else 0
        self._barrier = Barrier(view(np.uint32, (1,), 0), world_size, spins)

    def ask(self, numbers: Sequence[Rows] | None) -> tuple[list[Rows], Counts]:
        """See `Transport.ask`."""
        own = self._ranks.rank
        self._asks += 1
        shared, areas = self._counts[self._asks % 2], self._numbers[self._asks % 2]
        shared[own] = FAILED if numbers is None else [len(part) for part in numbers]
        total = int(shared[own].sum())
        if numbers is not None and total <= self._most_rows:
            np.concatenate(numbers, out=areas[own][:total])
        self._meet()
        counts = shared.copy()
        if numbers is None:
            return [], counts
        refuse_failed(counts[:, own].tolist())
        self._refuse_many(counts)
        firsts = np.cumsum(counts, axis=1) - counts
        asked = [
            area[first : first + count]
            for area, first, count in zip(
                areas, firsts[:, own].tolist(), counts[:, own].tolist(), strict=True
            )
        ]
        return asked, counts

    def exchange(self, sizes: Counts, write: Write) -> Blocks:
        """See `Transport.exchange`."""
        own = self._ranks.rank
        self._exchanges += 1
        inboxes = self._inboxes[self._exchanges % 2]
        firsts = (np.cumsum(sizes, axis=0) - sizes)[own].tolist()
        blocks = [
            inbox[first : first + size]
            for inbox, first, size in zip(inboxes, firsts, sizes[own].tolist(), strict=True)
        ]
        mine = inboxes[own][: int(sizes[:, own].sum())]
        if self._wire is torch.float32:
            write(blocks)
            self._meet()
            return mine
        return self._exchange_rounded(sizes, blocks, mine, write)

    def _exchange_rounded(
        self, sizes: Counts, blocks: Sequence[NDArray[Any]], mine: NDArray[Any], write: Write
    ) -> Blocks:
        own = self._ranks.rank
        sent = np.empty((int(sizes[own].sum()), mine.shape[1]), np.float32)
        parts = split(sent, sizes[own].tolist())
        write(parts)
        for rank, (block, part) in enumerate(zip(blocks, parts, strict=True)):
            if rank != own:
                self._tensor(block).copy_(torch.from_numpy(part))
        self._meet()
        received = self._tensor(mine).float().numpy()
        split(received, sizes[:, own].tolist())[own][:] = parts[own]
        return received

    def _tensor(self, block: NDArray[Any]) -> Tensor:
        return torch.from_numpy(block).view(self._wire)

    def _meet(self) -> None:
        """Returns when all ranks came here; LostRankError where one never will."""
        self._barrier.arrive()
        end = time.monotonic() + self._ranks.timeout_s
        while not self._barrier.wait(_LOOK_S):
            lost = self._lives.ended()
            # A rank may come here and end before this one looks.
            if lost is not None and not self._barrier.wait(0):
                raise LostRankError(
                    f"rank {lost} ended", "look at that rank; the run goes on from its checkpoint"
                )
            if time.monotonic() > end:
                raise LostRankError(
                    f"another rank did not come to the exchange within {self._ranks.timeout_s:g} s",
                    "look at the ranks that hang; the run goes on from its last checkpoint",
                )

    def _refuse_many(self, counts: Counts) -> None:
        most = max(int(counts.sum(0).max()), int(counts.sum(1).max()))
        if most > self._most_rows:
            raise ConfigError(
                f"a rank sends {most:,} distinct rows in a step, and shared memory has room for "
                f"{self._most_rows:,}",
                'lower train.batch_size, or set table.transport = "network"',
            )


def connect(ranks: Ranks, width: int, wire: str) -> SharedTransport | None:
    """Returns the transport, or None on all ranks where not all of them are on one machine.

    Collective. Why not is logged by the rank that found out.
    """
    size = _areas_at(ranks.world_size) + 4 * ranks.world_size * _AREA_BYTES
    memory = lives = None
    handle, told = _create(size) if ranks.is_first else (None, b"")
    told = ranks.share(told if ranks.is_first else None)
    if told:
        with _noting_why_not(ranks):
            handle = _open(told) if handle is None else handle
            memory = mmap.mmap(handle, size)
            processes = np.ndarray(ranks.world_size, np.int64, memory, _PROCESSES_AT)
            processes[ranks.rank] = os.getpid()
    if _all_have(ranks, memory):
        with _noting_why_not(ranks):
            lives = _Lives(processes.tolist())
    is_ready = _all_have(ranks, lives)
    if handle is not None:
        os.close(handle)
    if not is_ready or memory is None or lives is None:
        return None
    return SharedTransport(ranks, memory, lives, width, wire)


@contextmanager
def _noting_why_not(ranks: Ranks) -> Iterator[None]:
    """Logs what the system refuses or does not have; the network remains."""
    try:
        yield
    except (OSError, ValueError, AttributeError) as exc:
        logger.info("the ranks share no memory: rank %d cannot (%s)", ranks.rank, exc)


def _all_have(ranks: Ranks, thing: object) -> bool:
    return int(ranks.sum(torch.tensor([0 if thing is not None else 1]))) == 0


def _areas_at(world_size: int) -> int:
    counts_end = _PROCESSES_AT + 8 * world_size * (2 * world_size + 1)
    return -(-counts_end // mmap.PAGESIZE) * mmap.PAGESIZE


def _create(size: int) -> tuple[int | None, bytes]:
    """Returns new memory, and what the other ranks find it by; nothing where there is none."""
    with _noting_why_not(Ranks.alone()):
        handle = os.memfd_create("muxtable")
        try:
            os.ftruncate(handle, size)
        except OSError:
            os.close(handle)
            raise
        token = secrets.token_bytes(_TOKEN_BYTES)
        os.pwrite(handle, token, _TOKEN_AT)
        return handle, json.dumps([os.getpid(), handle, token.hex()]).encode()
    return None, b""


def _open(told: bytes) -> int:
    """Opens another process's memory; OSError where it is on another machine."""
    process, place, token = json.loads(told)
    handle = os.open(Path(f"/proc/{process}/fd/{place}"), os.O_RDWR)
    if os.pread(handle, _TOKEN_BYTES, _TOKEN_AT) != bytes.fromhex(token):
        os.close(handle)
        raise FileNotFoundError(f"process {process} is another one here")
    return handle
