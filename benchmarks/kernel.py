"""The fused table against FBGEMM's CPU table and torch's EmbeddingBag, and against the memory.

26 features of one table, rows of 32 floats. Every side goes through torch's autograd: `forward` is
the lookup, `full` the lookup, its backward pass and the optimizer step. Ours starts from raw 64-bit
ids (hashing included), theirs get the rows those ids hash to, in their own order, for nothing.
Batches change from call to call, so that rows come from memory, not from the caches. Zipf ids are
drawn from a million values of each feature.

    rowwise_vs_fbgemm         full step, row-wise Adagrad on both sides
    adagrad_vs_fbgemm         full step, element-wise Adagrad on both sides
    forward_vs_fbgemm         the lookup alone
    rowwise_vs_embeddingbag   full step, row-wise Adagrad, against nn.EmbeddingBag(sparse) and
                              torch.optim.Adagrad
    share_of_limit            time the memory alone needs for a full step, over our time for it
    forward_share_of_limit    the same for the lookup
    forward_limit_vs_fbgemm   FBGEMM's lookup over the memory's time for it: no lookup could show
                              a larger forward_vs_fbgemm there

The memory's time: the step's rows copied from random places into vectors, its gradients read in
order, its distinct rows changed at random places, 128 bytes each, and nothing else: nothing hashed,
no optimizer state touched, no duplicates found. Of a lookup it is the copying alone.

Each figure is the smallest over the grid at --threads; those that end in _one_thread are the same
with one thread. Both sides are compared before they are timed.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import harness
from features.batches import RowBatch
from features.settings import TableSettings
from native import hashing, limit, memory
from sharding.table import TableEngine, create_engine

NUM_FEATURES = 26
WIDTH = 32
LEARNING_RATE = 0.01
EPS = 1e-8
ZIPF_EXPONENT = 1.05
ZIPF_VALUES = 1_000_000
# Lookups of all batches of a rotation: their rows and gradients are several times the caches.
ROTATION = 500_000

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as each side wants it."""

    keys: NDArray[np.uint64]  # [features, samples]
    rows: Tensor  # the same, hashed
    row_batch: RowBatch
    gradient: Tensor  # [samples, features * width]
    sample_major: Tensor  # rows, [samples * features]
    flat: NDArray[np.int64]
    distinct: NDArray[np.int64]  # in no order


@dataclass(frozen=True, slots=True)
class Routing:
    """How keys become rows: one salt for each feature, all rows of the table for all."""

    salts: NDArray[np.uint64]
    bases: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def over(cls, table_rows: int) -> "Routing":
        """Returns the routing of the benchmark's features over a table."""
        salts = [hashing.salts(f"feature {f}", 1, 0)[0] for f in range(NUM_FEATURES)]
        sizes = np.full(NUM_FEATURES, table_rows, np.int64)
        return cls(np.array(salts, np.uint64), np.zeros(NUM_FEATURES, np.int64), sizes)

    def rows(self, keys: NDArray[np.uint64], threads: int) -> NDArray[np.int64]:
        """Returns the rows [features, samples] of keys."""
        out = np.empty(keys.shape, np.int64)
        features = np.arange(NUM_FEATURES, dtype=np.int32)
        hashing.hash_rows(
            keys, None, features, self.salts, self.salts, self.bases, self.sizes, out, threads
        )
        return out


def make_keys(ids: str, samples: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Returns ids [features, samples]: "uniform", nearly all distinct, or "zipf", a few hot."""
    shape = (NUM_FEATURES, samples)
    if ids == "uniform":
        return rng.integers(0, 2**63, shape, np.uint64)
    # The inverse of the distribution's integral.
    power = 1 - ZIPF_EXPONENT
    rank = (rng.random(shape) * (ZIPF_VALUES**power - 1) + 1) ** (1 / power)
    return rank.astype(np.uint64)


def make_batches(ids: str, samples: int, routing: Routing) -> list[Batch]:
    """Returns a rotation of batches whose rows together do not fit the caches."""
    rng = np.random.default_rng(7)
    columns = np.arange(NUM_FEATURES, dtype=np.int64) * WIDTH
    batches = []
    for _ in range(max(3, ROTATION // (samples * NUM_FEATURES))):
        keys = make_keys(ids, samples, rng)
        rows = routing.rows(keys, 1)
        flat = np.ascontiguousarray(rows.T).reshape(-1)
        batches.append(
            Batch(
                keys,
                torch.from_numpy(rows),
                RowBatch(samples, rows, columns, (), NUM_FEATURES * WIDTH),
                torch.randn(samples, NUM_FEATURES * WIDTH) * 1e-3,
                torch.from_numpy(flat),
                flat,
                rng.permutation(np.unique(flat)),
            )
        )
    return batches


class Ours:
    """The fused engine, from raw ids."""

    def __init__(self, table_rows: int, optimizer: Any, threads: int) -> None:
        settings = TableSettings(
            rows=table_rows,
            width=WIDTH,
            optimizer=optimizer,
            learning_rate=LEARNING_RATE,
            eps=EPS,
        )
        self.engine: TableEngine = create_engine("fused", table_rows, WIDTH, settings, 0, threads)
        self.routing = Routing.over(table_rows)

    def forward(self, batch: Batch) -> Tensor:
        """Hashes and looks up."""
        rows = self.routing.rows(batch.keys, self.engine.num_threads)
        template = batch.row_batch
        return self.engine.lookup(
            RowBatch(template.num_rows, rows, template.columns, (), template.out_width)
        )

    def full(self, batch: Batch) -> None:
        """Hashes, looks up and trains."""
        torch.autograd.backward(self.forward(batch), batch.gradient)


class Fbgemm:
    """FBGEMM's table-batched embedding on the CPU."""

    def __init__(self, weight: Tensor, optimizer: str) -> None:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
            EmbeddingLocation,
            PoolingMode,
        )
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        kinds = {
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
        }
        self.table = SplitTableBatchedEmbeddingBagsCodegen(
            [(len(weight), WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            feature_table_map=[0] * NUM_FEATURES,
            optimizer=kinds[optimizer],
            learning_rate=LEARNING_RATE,
            eps=EPS,
            pooling_mode=PoolingMode.SUM,
            device=torch.device("cpu"),
        )
        self.weight.copy_(weight)
        self.offsets: dict[int, Tensor] = {}

    @property
    def weight(self) -> Tensor:
        """Its rows, live."""
        return self.table.split_embedding_weights()[0].detach()

    def forward(self, batch: Batch) -> Tensor:
        """Looks up."""
        count = batch.rows.numel()
        if count not in self.offsets:
            self.offsets[count] = torch.arange(count + 1)
        return self.table(batch.rows.view(-1), self.offsets[count])

    def full(self, batch: Batch) -> None:
        """Looks up and trains."""
        torch.autograd.backward(self.forward(batch), batch.gradient)


class EmbeddingBag:
    """What torch alone offers: sparse gradients and its Adagrad."""

    def __init__(self, weight: Tensor) -> None:
        self.bag = nn.EmbeddingBag.from_pretrained(
            weight.clone(), freeze=False, mode="sum", sparse=True
        )
        self.optimizer = torch.optim.Adagrad(self.bag.parameters(), lr=LEARNING_RATE, eps=EPS)

    def full(self, batch: Batch) -> None:
        """Looks up and trains."""
        self.optimizer.zero_grad()
        vectors = self.bag(batch.sample_major.view(-1, 1)).view(batch.gradient.shape)
        torch.autograd.backward(vectors, batch.gradient)
        self.optimizer.step()


def cycling(step: Callable[[Batch], object], batches: list[Batch]) -> Step:
    """Returns a call that takes the next batch of the rotation."""
    rotation: Iterator[Batch] = itertools.cycle(batches)
    return lambda: step(next(rotation))


def check_equal(ours: Ours, fbgemm: Fbgemm, batches: list[Batch]) -> None:
    """Stops the benchmark unless both sides look up and train alike."""
    # Timing the memory has negated rows of ours.
    fbgemm.weight.copy_(ours.engine.weight)
    for batch in batches[:2]:
        difference = (ours.forward(batch) - fbgemm.forward(batch)).abs().max().item()
        assert difference < 1e-4, f"lookups differ by {difference}"
        ours.full(batch)
        fbgemm.full(batch)
    touched = torch.from_numpy(batches[0].distinct)
    difference = (ours.engine.weight[touched] - fbgemm.weight[touched]).abs().max().item()
    assert difference < 1e-4, f"rows differ by {difference} after two steps"


def memory_of_lookups(
    table: NDArray[np.float32], samples: int, threads: int
) -> Callable[[Batch], object]:
    """Returns what the memory is timed with for a lookup: copies of a batch's rows."""
    out = memory.allocate_vector(samples * NUM_FEATURES * WIDTH)
    return lambda batch: limit.copy_rows(table, batch.flat, out, threads)


def memory_alone(
    table: NDArray[np.float32], samples: int, threads: int
) -> Callable[[Batch], object]:
    """Returns what the memory is timed with, as a step over batches."""
    copy = memory_of_lookups(table, samples, threads)

    def touch(batch: Batch) -> None:
        copy(batch)
        limit.read_all(batch.gradient.view(-1).numpy(), threads)
        limit.change_rows(table, batch.distinct, threads)

    return touch


def measure(options: harness.Options, table_rows: int, optimizer: str) -> list[dict[str, Any]]:
    """Returns the rows of one table and optimizer: every batch, distribution and thread count."""
    thread_counts = sorted({1, options.threads}, reverse=True)
    torch.set_num_threads(options.threads)
    ours = Ours(table_rows, optimizer, options.threads)
    fbgemm = Fbgemm(ours.engine.weight, optimizer)
    bag = EmbeddingBag(ours.engine.weight) if optimizer == "rowwise_adagrad" else None
    rows = []
    for samples, ids in itertools.product((2048, 16384), ("uniform", "zipf")):
        batches = make_batches(ids, samples, ours.routing)
        check_equal(ours, fbgemm, batches)
        for threads in thread_counts:
            harness.progress(f"{optimizer}, {table_rows} rows, {ids}, {samples}, {threads} threads")
            torch.set_num_threads(threads)
            ours.engine.num_threads = threads
            steps: dict[str, Callable[[Batch], object]] = {
                "ours_full": ours.full,
                "fbgemm_full": fbgemm.full,
            }
            table = ours.engine.weight.numpy()
            if bag is not None:
                steps["embeddingbag_full"] = bag.full
                steps["memory"] = memory_alone(table, samples, threads)
            repeats = 5 if options.quick else (31 if samples == 2048 else 11)
            # Lookups leave the caches clean and steps do not: they are timed apart.
            times = harness.compare(
                {
                    "ours_forward": cycling(ours.forward, batches),
                    "fbgemm_forward": cycling(fbgemm.forward, batches),
                    "memory_forward": cycling(memory_of_lookups(table, samples, threads), batches),
                },
                repeats,
            )
            times |= harness.compare(
                {name: cycling(step, batches) for name, step in steps.items()}, repeats
            )
            distinct = sum(len(batch.distinct) for batch in batches)
            looked_up = sum(len(batch.flat) for batch in batches)
            row = {
                "optimizer": optimizer,
                "table_rows": table_rows,
                "ids": ids,
                "batch": samples,
                "threads": threads,
                "distinct": distinct / looked_up,
            }
            rows.append(row | figures(times) | {f"{key}_ms": t * 1e3 for key, t in times.items()})
    return rows


def figures(times: dict[str, float]) -> dict[str, float]:
    """Returns the ratios of one row of the grid."""
    found = {
        "forward": times["fbgemm_forward"] / times["ours_forward"],
        "forward_share_of_limit": times["memory_forward"] / times["ours_forward"],
        "forward_limit": times["fbgemm_forward"] / times["memory_forward"],
        "full": times["fbgemm_full"] / times["ours_full"],
    }
    if "memory" in times:
        found["embeddingbag"] = times["embeddingbag_full"] / times["ours_full"]
        found["share_of_limit"] = times["memory"] / times["ours_full"]
    return found


def ratios(rows: list[dict[str, Any]], threads: int) -> dict[str, float]:
    """Returns the smallest figures over the rows of one thread count."""
    chosen = [row for row in rows if row["threads"] == threads]
    rowwise = [row for row in chosen if row["optimizer"] == "rowwise_adagrad"]
    adagrad = [row for row in chosen if row["optimizer"] == "adagrad"]

    def least(of: list[dict[str, Any]], key: str) -> float:
        return min(row[key] for row in of)

    return {
        "rowwise_vs_fbgemm": least(rowwise, "full"),
        "adagrad_vs_fbgemm": least(adagrad, "full"),
        "forward_vs_fbgemm": least(chosen, "forward"),
        "rowwise_vs_embeddingbag": least(rowwise, "embeddingbag"),
        "share_of_limit": least(rowwise, "share_of_limit"),
        "forward_share_of_limit": least(chosen, "forward_share_of_limit"),
        "forward_limit_vs_fbgemm": least(chosen, "forward_limit"),
    }


def main() -> None:
    """Measures the grid and prints it."""
    options = harness.start("kernel", __doc__)
    memory.tune_allocator()
    sizes = (100_000,) if options.quick else (2_000_000, 20_000_000)
    rows: list[dict[str, Any]] = []
    for table_rows, optimizer in itertools.product(sizes, ("rowwise_adagrad", "adagrad")):
        rows += measure(options, table_rows, optimizer)
    found = ratios(rows, options.threads)
    if options.threads > 1:
        found |= {f"{key}_one_thread": value for key, value in ratios(rows, 1).items()}
    harness.finish(options, found, rows)


if __name__ == "__main__":
    main()
