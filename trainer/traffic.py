"""What the ranks send each other at a step: counted on a sample of the data, nothing is sent.

    exchange     every distinct row a rank needs of another: its number there, the row back, the
                 gradient of the row there; and how many of them, to each other rank
    torchrec     TorchRec's row-wise sharding: every id to its owner; blocks of pooled vectors of
                 the whole batch, zeros where a rank owns nothing, there and back
    tower        the sum of the tower's gradients, the same for both

Bytes of all ranks together, as the collectives' payload; framing of the transport comes on top.
gloo's reduce-scatter is an all-reduce (2 (W - 1) / W of the data sent by each rank), as counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.batches import KeyBatch, RowBatch
from features.parquet import Dataset
from features.routing import Layout
from features.schema import FeatureSet
from features.statistics import FeatureStatistics
from sharding.bounds import shard_bounds
from trainer.job import Job
from trainer.plan import Plan
from trainer.stream import BatchStream

_STEPS = 4
_MOST_RANKS = 4
_FLOAT_BYTES = 4
_COUNT_BYTES = 8
_LENGTH_BYTES = 8
_TORCHREC_ID_BYTES = 8
_WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes on the wire of one step, all ranks together."""

    world_size: int
    exchange_bytes: int
    torchrec_bytes: int
    tower_bytes: int
    distinct_rows: float
    """Distinct rows a rank asks for at a step, its own among them."""
    lookups: float
    """Rows a rank looks up at a step."""

    def to_json(self) -> dict[str, Any]:
        """Returns the traffic as plain JSON values."""
        return asdict(self)


def measure_traffic(
    job: Job,
    plan: Plan,
    layout: Layout,
    dataset: Dataset,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    world_size: int,
) -> Traffic:
    """Counts the traffic of the first steps of a job, on at most four of its ranks."""
    ends = np.array(shard_bounds(layout.rows, world_size))
    id_bytes = exchange_id_bytes(layout.rows, world_size)
    row_bytes = id_bytes + 2 * layout.width * _WIRE_BYTES[job.table.wire]
    exchange = torchrec = distinct = lookups = 0.0
    sampled = 0
    for rank in range(0, world_size, -(-world_size // _MOST_RANKS)):
        for batch in _batches(job, dataset, feature_set, statistics, rank, world_size):
            rows = _rows_of(layout.route(batch))
            needed = np.unique(rows)
            remote = len(needed) - int(
                np.count_nonzero((needed >= ends[rank]) & (needed < ends[rank + 1]))
            )
            exchange += remote * row_bytes + (world_size - 1) * _COUNT_BYTES
            torchrec += _torchrec_bytes(layout, batch.num_rows, len(rows), world_size)
            distinct += len(needed)
            lookups += len(rows)
            sampled += 1
    to_all = world_size / max(sampled, 1)
    return Traffic(
        world_size=world_size,
        exchange_bytes=round(exchange * to_all),
        torchrec_bytes=round(torchrec * to_all),
        tower_bytes=2 * (world_size - 1) * plan.tower_bytes,
        distinct_rows=distinct / max(sampled, 1),
        lookups=lookups / max(sampled, 1),
    )


def exchange_id_bytes(rows: int, world_size: int) -> int:
    """Returns the bytes a row's number takes on the wire: local numbers of 32 bits where they
    suffice."""
    return 4 if -(-rows // world_size) <= 2**32 else 8


def _torchrec_bytes(layout: Layout, samples: int, num_rows: int, world_size: int) -> float:
    others = world_size - 1
    keys = sum(len(route.lookups) for route in layout.routes)
    vectors = samples * layout.out_width * _FLOAT_BYTES
    ids = num_rows * _TORCHREC_ID_BYTES * others / world_size
    lengths = keys * samples * _LENGTH_BYTES * others
    # Forward an all-reduce of the blocks of all ranks, backward an all-gather.
    return ids + lengths + 2 * others * vectors + others * vectors


def _batches(
    job: Job,
    dataset: Dataset,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    rank: int,
    world_size: int,
) -> Iterator[KeyBatch]:
    with BatchStream(
        dataset,
        feature_set,
        statistics,
        job.data.model_copy(update={"prefetch": 0}),
        batch_size=job.train.batch_size,
        seed=job.train.seed,
        epoch=0,
        rank=rank,
        world_size=world_size,
    ) as stream:
        for _ in range(min(_STEPS, stream.num_steps)):
            yield next(stream)


def _rows_of(batch: RowBatch) -> np.ndarray:
    return np.concatenate([batch.rows.ravel(), *(bag.rows.ravel() for bag in batch.bags)])
