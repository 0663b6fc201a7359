"""A small model and made-up batches: what tests of the loop and its parts train."""

from collections.abc import Iterator

import numpy as np
import torch

from features.batches import KeyBatch, KeyColumn
from features.schema import FeatureSet
from features.settings import FeaturesSettings, TableSettings
from trainer.dense_optimizer import DenseOptimizer
from trainer.model import Model, build_model
from trainer.representations.registry import build_layout
from trainer.settings import TowerSettings, TrainSettings

TABLE = TableSettings(rows=97, width=6, exact_below=0)
TOWER = TowerSettings(hidden=[8], dropout=0.25)
NUM_DENSE = 2


def feature_set() -> FeatureSet:
    names = FeaturesSettings(categorical=["user", "item"])
    return FeatureSet.build(None, names, {}, TABLE)


def small_model(table: TableSettings = TABLE, tower: TowerSettings = TOWER, seed: int = 0) -> Model:
    layout = build_layout(feature_set(), None, table)
    return build_model(
        layout, NUM_DENSE, table, tower, seed=seed, threads=1, device=torch.device("cpu")
    )


def small_optimizer(model: Model, **settings: object) -> DenseOptimizer:
    return DenseOptimizer(model.tower, TrainSettings.model_validate(settings))


def batch(epoch: int, step: int, rows: int = 16, weighted: bool = False) -> KeyBatch:
    rng = np.random.default_rng([epoch, step])
    keys = rng.integers(0, 40, (2, rows)).astype(np.uint64)
    dense = rng.normal(size=(rows, NUM_DENSE)).astype(np.float32)
    label = (rng.random(rows) < 1 / (1 + np.exp(-dense[:, 0]))).astype(np.float32)
    return KeyBatch(
        num_rows=rows,
        columns={name: KeyColumn(row) for name, row in zip(("user", "item"), keys, strict=True)},
        matrix=keys,
        null_matrix=None,
        dense=dense,
        label=label,
        weight=rng.random(rows).astype(np.float32) if weighted else None,
    )


class FakeStream:
    """The batches of an epoch, the last one smaller, as `BatchStream` gives them."""

    def __init__(self, epoch: int, step: int, steps: int, weighted: bool = False) -> None:
        self._epoch, self._step, self._steps = epoch, step, steps
        self._weighted = weighted
        self.is_closed = False

    @property
    def step(self) -> int:
        return self._step

    def runs(self, step: int) -> tuple[tuple[int, int], ...]:
        return ((0, 7 if step + 1 == self._steps else 16),)

    def __iter__(self) -> Iterator[KeyBatch]:
        return self

    def __next__(self) -> KeyBatch:
        if self._step == self._steps:
            raise StopIteration
        self._step += 1
        rows = 7 if self._step == self._steps else 16
        return batch(self._epoch, self._step - 1, rows, self._weighted)

    def close(self) -> None:
        self.is_closed = True
