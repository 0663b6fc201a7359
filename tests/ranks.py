"""Functions run by several ranks: real processes that talk over gloo."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.distributed import TCPStore

# Imported once, in the process all ranks are forked from.
_PRELOADED = ["numpy", "pyarrow.parquet", "torch", "sharding.ranks", "sharding.table"]


@dataclass(frozen=True)
class Started:
    """The processes of some ranks, and what each will say: (is it good, its result or error)."""

    processes: list[BaseProcess]
    ends: list[Connection]
    store: TCPStore
    """Where they meet; gone with this object."""


def start_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> Started:
    """Starts function(ranks, *args) on every rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    # Held here, as torchrun holds it: a port that was only looked for may be taken meanwhile.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = Started([], [], store)
    for rank in range(world_size):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_rank, args=(theirs, rank, world_size, store.port, function, args), daemon=True
        )
        process.start()
        theirs.close()
        started.processes.append(process)
        started.ends.append(mine)
    return started


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = 120,
    dying: Collection[int] = (),
) -> list[Any]:
    """Returns function(ranks, *args) of every rank; raises what the first one that failed raised.

    The ranks `dying` have to die instead, and their result is None.

    The function has to be one of a module, its arguments and result picklable.
    """
    started = start_ranks(world_size, function, *args)
    processes, ends = started.processes, started.ends
    results: dict[int, Any] = {}
    try:
        while len(results) < world_size:
            ready = wait([end for rank, end in enumerate(ends) if rank not in results], timeout_s)
            if not ready:
                missing = [rank for rank in range(world_size) if rank not in results]
                raise AssertionError(f"ranks {missing} did not end within {timeout_s} s")
            for end in ready:
                rank = ends.index(end)  # type: ignore[arg-type]
                try:
                    is_good, value = end.recv()  # type: ignore[union-attr]
                except EOFError:
                    if rank in dying:
                        results[rank] = None
                        continue
                    raise AssertionError(f"rank {rank} died") from None
                if not is_good:
                    raise AssertionError(f"rank {rank}:\n{value}")
                results[rank] = value
    finally:
        for process in processes:
            process.kill() if len(results) < world_size else process.join(30)
            process.join()
    return [results[rank] for rank in range(world_size)]


def _rank(
    end: Connection,
    rank: int,
    world_size: int,
    port: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    import torch

    from sharding.ranks import Ranks

    torch.set_num_threads(1)
    try:
        ranks = Ranks.join(timeout_s=60)
        end.send((True, function(ranks, *args)))
        ranks.leave()
    except BaseException:  # noqa: BLE001 the parent raises it
        end.send((False, traceback.format_exc()))
