"""The ranks that benchmarks.exchange measures: real processes on a loopback of their own.

    [unshare --net] python -m benchmarks.exchange_ranks CASE     CASE and the answer are JSON

Run inside a network namespace it brings the loopback up and counts every byte on it, TCP's headers
included; elsewhere it counts on the machine's loopback, other programs' bytes included.
"""

import contextlib
import fcntl
import json
import logging
import multiprocessing
import os
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One table and one kind of batch, by one number of ranks."""

    world_size: int
    ids: str  # "uniform", or "zipf": drawn by Zipf's law with exponent 1.05
    rows: int
    width: int
    num_features: int
    batch_size: int  # of each rank
    repeats: int
    steps: int  # of each turn

    @property
    def out_width(self) -> int:
        """Floats of a sample."""
        return self.num_features * self.width


def draw_rows(case: Case, rank: int) -> list[np.ndarray]:
    """Returns the rows int64[F, B] of some batches: hashed, each feature in its own way."""
    from native import hashing

    generator = np.random.default_rng(rank)
    shape = (case.num_features, case.batch_size)
    salts = np.array([hashing.salts(f"f{i}", 1, 0)[0] for i in range(case.num_features)], np.uint64)
    values = 1_000_000
    shares = np.cumsum(1 / np.arange(1, values + 1) ** 1.05)
    batches = []
    for _ in range(6):
        if case.ids == "uniform":
            keys = generator.integers(0, 2**63, shape)
        else:
            keys = np.searchsorted(shares / shares[-1], generator.random(shape))
        rows = np.empty(shape, np.int64)
        hashing.hash_rows(
            keys.astype(np.uint64),
            None,
            np.arange(case.num_features, dtype=np.int32),
            salts,
            salts,
            np.zeros(case.num_features, np.int64),
            np.full(case.num_features, case.rows),
            rows,
        )
        batches.append(rows)
    return batches


class Turns:
    """A contender's steps, on one batch after another."""

    def __init__(self, step: Callable[[Any], None], batches: list[Any]) -> None:
        self._step, self._batches = step, batches
        self._next = 0

    def take(self, count: int, meet: Callable[[], None]) -> None:
        """Takes steps between two meetings of all ranks."""
        meet()
        for _ in range(count):
            self._step(self._batches[self._next % len(self._batches)])
            self._next += 1
        meet()


def exchange_turns(case: Case, rows: list[np.ndarray], ranks: Any, **settings: str) -> Turns:
    """Returns steps of the exchange engine."""
    import torch

    from features.routing import RowBatch
    from features.settings import TableSettings
    from sharding.table import create_engine

    table = TableSettings(rows=case.rows, width=case.width, **settings)  # type: ignore[arg-type]
    engine = create_engine("exchange", case.rows, case.width, table, 0, 1, ranks=ranks)
    columns = np.arange(case.num_features) * case.width
    gradient = torch.randn(case.batch_size, case.out_width) * 1e-4
    batches = [RowBatch(case.batch_size, each, columns, (), case.out_width) for each in rows]
    return Turns(lambda batch: engine.lookup(batch).backward(gradient), batches)


def torchrec_turns(case: Case, rows: list[np.ndarray], world_size: int) -> Turns:
    """Returns steps of TorchRec's row-wise table under DistributedModelParallel.

    Everything of its input but the rows is made once, which its users have to do by hand.
    """
    import torch
    import torch.distributed as dist
    import torchrec
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    keys = [f"f{i}" for i in range(case.num_features)]
    collection = torchrec.EmbeddingBagCollection(
        [
            torchrec.EmbeddingBagConfig(
                name="t", num_embeddings=case.rows, embedding_dim=case.width, feature_names=keys
            )
        ],
        device=torch.device("meta"),
    )
    fused = {
        "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "learning_rate": 0.05,
        "eps": 1e-8,
    }
    sharder = EmbeddingBagCollectionSharder(fused_params=fused)
    plan = construct_module_sharding_plan(
        collection,
        {"t": row_wise(compute_kernel="fused")},
        sharder=sharder,
        local_size=world_size,
        world_size=world_size,
        device_type="cpu",
    )
    assert plan["t"].compute_kernel == "fused", "the kernel dense trains nothing"
    model = DistributedModelParallel(
        collection,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({"": plan}),
        sharders=[sharder],
        init_data_parallel=False,
    )
    size, count = case.batch_size, case.num_features
    lengths = torch.ones(count * size, dtype=torch.int64)
    offsets = torch.arange(count * size + 1)
    batches = [
        torchrec.KeyedJaggedTensor(
            keys=keys,
            values=torch.from_numpy(each.reshape(-1)),
            lengths=lengths,
            offsets=offsets,
            stride=size,
            length_per_key=[size] * count,
            offset_per_key=[size * i for i in range(count + 1)],
        )
        for each in rows
    ]
    gradient = torch.randn(size, case.out_width) * 1e-4
    return Turns(lambda batch: model(batch).values().backward(gradient), batches)


def measure(case: Case, ranks: Any) -> dict[str, Any]:
    """Returns seconds and bytes on the loopback of a step, by contender."""
    import torch

    from native.memory import tune_allocator

    torch.set_num_threads(1)
    tune_allocator()
    rows = draw_rows(case, ranks.rank)
    turns = {"torchrec": torchrec_turns(case, rows, ranks.world_size)}
    for name, transport, wire in (
        ("shared", "shared_memory", "float32"),
        ("shared_fp16", "shared_memory", "float16"),
        ("network", "network", "float32"),
        ("network_fp16", "network", "float16"),
    ):
        turns[name] = exchange_turns(case, rows, ranks, transport=transport, wire=wire)
    steps = {name: partial(each.take, case.steps, ranks.barrier) for name, each in turns.items()}
    seconds = harness.compare(steps, case.repeats)
    found: dict[str, Any] = {}
    for name, step in steps.items():
        before = loopback_bytes()
        step()
        found[name] = {
            "seconds": seconds[name] / case.steps,
            "bytes": (loopback_bytes() - before) / case.steps,
        }
    found["distinct"] = float(np.mean([len(np.unique(each)) / each.size for each in rows]))
    return found


def loopback_bytes() -> int:
    """Returns the bytes that went over the loopback since it is there."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise RuntimeError("there is no loopback")


def bring_loopback_up() -> None:
    """Does what `ip link set lo up` does; nothing where it is up."""
    with socket.socket() as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        if not flags & _IFF_UP:
            request = struct.pack("16sH14x", b"lo", flags | _IFF_UP)
            fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def run_rank(end: Connection, rank: int, port: int, case: Case) -> None:
    """Is one rank; rank 0 sends what it measured."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(case.world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(case.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        # A network of its own has no names, and torch warns of each one missing.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    warnings.filterwarnings("ignore")
    for name in ("torch.fx._symbolic_trace", "torch.distributed.distributed_c10d"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from sharding.ranks import Ranks

    ranks = Ranks.join()
    found = measure(case, ranks)
    if ranks.is_first:
        end.send(found)
    ranks.barrier()
    ranks.leave()


def main() -> None:
    """Measures the case given as an argument."""
    case = Case(**json.loads(sys.argv[1]))
    bring_loopback_up()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    processes = [
        context.Process(target=run_rank, args=(theirs, rank, port, case), daemon=True)
        for rank in range(case.world_size)
    ]
    for process in processes:
        process.start()
    theirs.close()
    found = None
    with contextlib.suppress(EOFError):
        found = mine.recv()
    for process in processes:
        process.join()
    if found is None or any(process.exitcode for process in processes):
        raise SystemExit("a rank failed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
