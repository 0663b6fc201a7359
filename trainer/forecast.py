"""How much memory a training will need at its peak, interpreter and libraries included.

What is counted, each at its largest:

    libraries         interpreter, torch, Arrow, our modules and their threads: measured, by a
                      training of nearly nothing in another process (`trainer.idle`)
    table, state      as `sharding.footprint` says; all rows count as touched
    tower             parameters, gradients, optimizer state
    blocks            one of each stream and the few that are read ahead, as keys; later epochs
                      find the memory of the first in pieces and add to it
    reading           the pass of the profile, and later the row groups a thread decodes
    activations       what forward and backward keep of a batch, and of an evaluation's larger one
    changed rows      which rows the next delta will hold
    checkpoint copy   the copy of the tensors that is written in the background
    predictions       the predictions of an evaluation, held in order

The allocator keeps what was freed and gives part of it out again: phases that follow each other
count whole where they are largest, and by a share beside it. Copies and shares were fitted to the
demo, ML-1M and a table of 4 GB, and hold there within 5 % (a slow test holds 10 %).
"""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from features.dense import build_transforms
from features.parquet import Dataset
from features.schema import FeatureSet
from features.settings import parse_size
from features.statistics import FeatureStatistics
from trainer.job import Job
from trainer.memory import resident_bytes
from trainer.order import MAX_UNIT_ROWS, steps_per_epoch
from trainer.plan import Plan, tower_state_floats
from trainer.sources import AHEAD_BLOCKS

logger = logging.getLogger(__name__)

_KEY_BYTES = 8
_FLOAT_BYTES = 4
# Held beside a prediction while predictions are sorted: itself, its weight, and their copies.
_PREDICTION_BYTES = 32
_EVALUATION_ROWS = 8192

# Copies of a row group: while it is profiled, and while it is decoded (Arrow's columns, keys made
# of them, the permuted keys).
_PROFILE_COPIES = 5
_DECODE_COPIES = 3
# A feature's distinct keys are held exactly up to this many, with the buffers that merge them.
_DISTINCT_KEYS = 65_536
_DISTINCT_BYTES = 80
# Copies of a batch's input (embedding and dense columns) with the optimizer's work on rows; more
# for each cross layer; an evaluation keeps nothing for a backward pass.
_BATCH_COPIES = 7.0
_CROSS_COPIES = 7.5
_EVALUATION_COPIES = 7.0
# Row numbers, rows and what a reader makes of them, with the gradients of all.
_READER_COPIES = 3.0
# What the smaller of two phases adds to the larger one.
_DATA_REUSE = 0.5
_ACTIVATION_REUSE = 0.35

# What the second and the third epoch each add to what blocks and decoding took; then it is enough.
_EPOCH_GROWTH = 0.65
_GROWING_EPOCHS = 2

# What a process that has imported everything still takes for its first steps: code that is read,
# threads with their arenas, the pools of torch and Arrow.
_FIRST_USE_BYTES = 140 << 20
# Where no other process can be started: seen with the pinned releases.
_LIBRARIES_BYTES = 417 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The peak of memory and what it is made of."""

    parts: tuple[tuple[str, int], ...]

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(size for _, size in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Returns the forecast as plain JSON values."""
        return {"peak_bytes": self.peak_bytes, "parts": dict(self.parts)}


def forecast_memory(
    job: Job,
    plan: Plan,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    dataset: Dataset,
    libraries_bytes: int,
) -> Forecast:
    """Returns the peak of training a job on a dataset with these statistics, for each rank of the
    plan; rank 0's, which evaluates, where they differ.

    `libraries_bytes` is `measure_libraries()`, or in the training process itself
    `libraries_from_here()` at its start.
    """
    share = 1 / plan.world_size
    row_bytes = _row_bytes(feature_set, statistics)
    tower_floats = 2 + tower_state_floats(job.train.optimizer)
    blocks = _blocks_bytes(job, dataset, row_bytes, plan.world_size)
    predictions = 0
    if job.data.valid is not None or job.data.test is not None:
        # How many rows are evaluated is not known here; a tenth of a data set is the custom.
        rows = min(job.train.metrics_buffer, dataset.num_rows // 8)
        predictions = rows * _PREDICTION_BYTES
    return Forecast(
        parts=(
            ("libraries", libraries_bytes),
            ("table", plan.memory.weight_bytes),
            ("optimizer state", plan.memory.state_bytes),
            ("tower", plan.tower_bytes * tower_floats),
            ("blocks", blocks + _growth_bytes(job, dataset, row_bytes, blocks)),
            ("reading", _reading_bytes(job, statistics, dataset, row_bytes, blocks)),
            ("activations", _activation_bytes(job, plan)),
            ("exchange", _exchange_bytes(job, plan)),
            # A byte a row says whether it changed.
            ("changed rows", plan.rank_rows if job.run.deltas else 0),
            (
                "checkpoint copy",
                min(round(plan.checkpoint_bytes * share), parse_size(job.run.copy_budget)),
            ),
            ("predictions", predictions),
        )
    )


def measure_libraries() -> int:
    """Returns the peak of a process that trains on next to nothing; it takes a few seconds."""
    try:
        probe = subprocess.run(
            [sys.executable, "-m", "trainer.idle"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return int(probe.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        logger.warning(
            "the memory of the libraries could not be measured (%s); %d MiB are assumed",
            type(exc).__name__,
            _LIBRARIES_BYTES >> 20,
        )
        return _LIBRARIES_BYTES


def libraries_from_here() -> int:
    """Returns what libraries will take of this process, which has imported them."""
    return resident_bytes() + _FIRST_USE_BYTES


def _row_bytes(feature_set: FeatureSet, statistics: FeatureStatistics) -> int:
    """Bytes of a row as keys: what a block holds of it."""
    size = 0.0
    for feature in feature_set.features:
        seen = statistics.categorical[feature.name]
        if feature.is_bag:
            per_value = _KEY_BYTES + (seen.null_count > 0)
            size += per_value * (seen.num_values + seen.null_count) / max(seen.rows, 1) + _KEY_BYTES
        else:
            size += _KEY_BYTES
    if any(statistics.categorical[f.name].null_count for f in feature_set.univalent):
        size += len(feature_set.univalent)
    size += _FLOAT_BYTES * sum(each.width for each in build_transforms(feature_set, statistics))
    size += _FLOAT_BYTES * ((feature_set.label is not None) + (feature_set.weight is not None))
    return round(size)


def _group_rows(dataset: Dataset) -> int:
    """Rows of the largest piece that is decoded at once."""
    groups = [rows for file in dataset.files for rows in file.row_groups]
    return min(max(groups, default=0), MAX_UNIT_ROWS)


def _blocks_bytes(job: Job, dataset: Dataset, row_bytes: int, world_size: int) -> int:
    block = min(_group_rows(dataset), job.data.block_rows)
    held = -(-job.data.streams // world_size) + AHEAD_BLOCKS
    return min(held * block, dataset.num_rows) * row_bytes


def _growth_bytes(job: Job, dataset: Dataset, row_bytes: int, blocks: int) -> int:
    epochs = job.train.epochs
    if job.train.max_steps is not None:
        steps = steps_per_epoch(dataset.num_rows, job.train.batch_size)
        epochs = min(epochs, -(-job.train.max_steps // steps))
    decoding = _decoding_bytes(job, dataset, row_bytes)
    return round(min(epochs - 1, _GROWING_EPOCHS) * _EPOCH_GROWTH * (blocks + decoding))


def _decoding_bytes(job: Job, dataset: Dataset, row_bytes: int) -> int:
    return _DECODE_COPIES * _group_rows(dataset) * row_bytes * job.data.read_threads


def _reading_bytes(
    job: Job, statistics: FeatureStatistics, dataset: Dataset, row_bytes: int, blocks: int
) -> int:
    group = _group_rows(dataset) * row_bytes
    distinct = sum(
        min(seen.cardinality, _DISTINCT_KEYS) * _DISTINCT_BYTES
        for seen in statistics.categorical.values()
    )
    profile = _PROFILE_COPIES * group + distinct
    decoding = _decoding_bytes(job, dataset, row_bytes)
    return round(profile + decoding - _DATA_REUSE * min(profile, decoding + blocks))


def _exchange_bytes(job: Job, plan: Plan) -> int:
    """Rows asked for and rows given, each with its gradient; all lookups count as distinct."""
    if plan.world_size == 1:
        return 0
    lookups = plan.out_width // plan.width * (job.train.batch_size // plan.world_size)
    return 4 * min(lookups, plan.rows) * (plan.width * _FLOAT_BYTES + _KEY_BYTES)


def _activation_bytes(job: Job, plan: Plan) -> int:
    tower, width = job.tower, plan.out_width + plan.num_dense
    copies = _BATCH_COPIES
    if tower.kind == "dcnv2":
        copies += _CROSS_COPIES * tower.cross_layers
    hidden = sum(tower.hidden) + (sum(tower.bottom) if tower.kind == "dlrm" else 0)
    if tower.kind == "dlrm":
        hidden += len(plan.features) ** 2
    batch = -(-job.train.batch_size // plan.world_size)
    read = _READER_COPIES * plan.reader_floats
    training = batch * (copies * width + 3 * hidden + read) * _FLOAT_BYTES
    evaluation = 0.0
    if job.data.valid is not None or job.data.test is not None:
        read = plan.reader_floats
        evaluation = _EVALUATION_ROWS * (_EVALUATION_COPIES * width + hidden + read) * _FLOAT_BYTES
    larger, smaller = max(training, evaluation), min(training, evaluation)
    return round(larger + _ACTIVATION_REUSE * smaller)
