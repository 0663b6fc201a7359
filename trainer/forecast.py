"""How much memory a training will need at its peak, interpreter and libraries included.

What is counted, each at its largest:

    libraries       the interpreter, torch, Arrow and our modules, measured in another process
    table, state    as `sharding.footprint` says; all rows count as touched
    tower           parameters, gradients, optimizer state, and the copy of a checkpoint
    blocks          of each stream the one that is given out and the one read ahead, as keys
    reading         the row group a thread decodes: Arrow's columns beside the keys made of them
    batches         the ones ahead, and what forward and backward keep of one
    checkpoint      the copy of table and state that is written in the background, where it fits
    evaluation      the predictions held in order, and an evaluation's batch

The sum is the forecast; the profile, which is made before the table exists, can only exceed it
where the table is small, and is counted against it.
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
from trainer.order import MAX_UNIT_ROWS
from trainer.plan import Plan, tower_state_floats

logger = logging.getLogger(__name__)

_KEY_BYTES = 8
_FLOAT_BYTES = 4
# Held beside a prediction while predictions are sorted: itself, its weight, and their copies.
_PREDICTION_BYTES = 32
_EVALUATION_ROWS = 8192
# A row group while it is decoded: Arrow's columns, the keys made of them, and their permuted copy.
_DECODE_COPIES = 3
# What forward and backward hold of a batch for each of its columns: activation and gradient.
_ACTIVATION_COPIES = 2
# Where no process of its own can be started, or torch is missing: seen with the pinned releases.
_LIBRARIES_BYTES = 330 << 20

# Imports what a training imports and runs one small step, so that the code is in memory too.
_PROBE = """
import torch
import trainer.report_data, trainer.train, trainer.signals, launch.progress
from trainer.memory import peak_bytes
net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(net.parameters())
torch.nn.functional.softplus(net(torch.zeros(256, 64))).mean().backward()
optimizer.step()
print(peak_bytes())
"""


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
    libraries_bytes: int | None = None,
) -> Forecast:
    """Returns the peak of training a job; `libraries_bytes` None measures it, in a few seconds."""
    row_bytes = _row_bytes(feature_set, statistics)
    table_bytes = plan.memory.total_bytes
    tower_bytes = plan.tower_parameters * _FLOAT_BYTES
    tower_floats = 2 + tower_state_floats(job.train.optimizer)
    copy_bytes = plan.checkpoint_bytes
    return Forecast(
        parts=(
            ("libraries", libraries_bytes or measure_libraries()),
            ("table", plan.memory.weight_bytes),
            ("optimizer state", plan.memory.state_bytes),
            ("tower", tower_bytes * tower_floats),
            ("blocks", _blocks_bytes(job, dataset, row_bytes)),
            ("reading", _reading_bytes(job, dataset, row_bytes)),
            ("batches", _batch_bytes(job, plan, feature_set)),
            (
                "checkpoint copy",
                copy_bytes if table_bytes <= parse_size(job.run.copy_budget) else 32 << 20,
            ),
            ("evaluation", _evaluation_bytes(job, plan, dataset)),
        )
    )


def measure_libraries() -> int:
    """Returns the peak of a process that has only imported what a training needs."""
    try:
        probe = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=True
        )
        return int(probe.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        logger.warning(
            "the memory of the libraries could not be measured (%s); %d MiB are assumed",
            type(exc).__name__,
            _LIBRARIES_BYTES >> 20,
        )
        return _LIBRARIES_BYTES


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


def _blocks_bytes(job: Job, dataset: Dataset, row_bytes: int) -> int:
    block = min(_group_rows(dataset), job.data.block_rows)
    return min(2 * job.data.streams * block, dataset.num_rows) * row_bytes


def _reading_bytes(job: Job, dataset: Dataset, row_bytes: int) -> int:
    return job.data.read_threads * _group_rows(dataset) * row_bytes * _DECODE_COPIES


def _batch_bytes(job: Job, plan: Plan, feature_set: FeatureSet) -> int:
    rows = job.train.batch_size
    lookups = sum(feature.num_lookups for feature in plan.features)
    keys = rows * _KEY_BYTES * (len(feature_set.features) + lookups)
    ahead = rows * _KEY_BYTES * len(feature_set.features) * (job.data.prefetch + 1)
    width = plan.out_width + plan.num_dense
    tower = job.tower
    layers = tower.cross_layers * 3 if tower.kind == "dcnv2" else 2
    activations = width * (1 + layers) + 3 * sum(tower.hidden)
    if tower.kind == "dlrm":
        activations += 3 * sum(tower.bottom) + len(plan.features) ** 2
    return keys + ahead + rows * activations * _FLOAT_BYTES * _ACTIVATION_COPIES


def _evaluation_bytes(job: Job, plan: Plan, dataset: Dataset) -> int:
    if job.data.valid is None and job.data.test is None:
        return 0
    width = plan.out_width + plan.num_dense
    batch = _EVALUATION_ROWS * width * 3 * _FLOAT_BYTES
    return batch + min(job.train.metrics_buffer, dataset.num_rows) * _PREDICTION_BYTES
