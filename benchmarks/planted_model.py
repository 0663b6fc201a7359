"""Logistic regression on embeddings, as the theory has it: z = sum over features of <theta, e>.

All readers theta start as the same vector, so that every angle between them starts at 0. Rows are
trained by SGD, which the theory is for: an adaptive optimizer scales away what crowded rows get
more of. The parts are the product's own: layout, table engine, order of the data.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import harness
from benchmarks.planted_data import CRITEO, LABEL, NAMES
from features.parquet import open_dataset
from features.profile import Profile, build_profile
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import DataSettings, FeaturesSettings, TableSettings
from trainer.inspection_angles import Angles
from trainer.inspection_collisions import FeatureCollisions, count_collisions, count_rows
from trainer.inspection_layers import layer_angles
from trainer.inspection_values import count_values
from trainer.losses import binary_cross_entropy
from trainer.model import Model, build_model
from trainer.representations.registry import build_layout
from trainer.settings import TowerSettings
from trainer.stream import BatchStream, FileStream

WIDTH = 16
_BATCH = 2048
_TABLE_RATE = 40.0
_READERS_RATE = 3e-3
_LOOKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came out of one training."""

    budget: float
    multiplexed: bool
    rows: int
    auc: float
    curve: tuple[tuple[float, float, float], ...]
    """(epochs, mean angle between readers in degrees or NaN, mean squared norm)."""
    residents: float
    """Values of the same feature in a value's row, mean over the values."""
    alone: float
    """Share of the values without any."""
    seconds: float

    @property
    def norm(self) -> float:
        """The mean squared norm of the rows at the end."""
        return self.curve[-1][2]


def train(
    folder: Path, budget: float, multiplexed: bool, epochs: int, seed: int, threads: int
) -> Outcome:
    """Trains with `budget` times as many rows as there are values."""
    began = time.monotonic()
    settings = TableSettings(
        rows=round(budget * sum(CRITEO)),
        width=WIDTH,
        lookups=1,
        multiplexed=multiplexed,
        exact_below=0,
        hash_seed=seed,
        optimizer="sgd",
        learning_rate=_TABLE_RATE,
    )
    data = DataSettings(train="train.parquet", label=LABEL)
    names = FeaturesSettings(categorical=list(NAMES))
    feature_set = FeatureSet.build(data, names, {}, settings)
    dataset = open_dataset("train.parquet", folder)
    profile = build_profile(dataset, feature_set, settings)
    layout = build_layout(feature_set, profile, settings)
    tower = TowerSettings(kind="mlp", hidden=[])
    device = torch.device("cpu")
    model = build_model(layout, 0, settings, tower, seed=seed, threads=threads, device=device)
    _begin_alike(model)
    optimizer = torch.optim.Adam(model.tower.parameters(), _READERS_RATE)
    curve = [(0.0, *_look(model))]
    for epoch in range(epochs):
        with BatchStream(
            dataset, feature_set, profile, data, batch_size=_BATCH, seed=seed, epoch=epoch
        ) as stream:
            steps = stream.num_steps
            looks = {steps * (look + 1) // _LOOKS for look in range(_LOOKS)}
            for step, batch in enumerate(stream, 1):
                assert batch.label is not None
                logits = model.logits(model.route(batch), batch.dense)
                loss = binary_cross_entropy(
                    logits, torch.from_numpy(batch.label), None, batch.num_rows
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step in looks:
                    curve.append((epoch + step / steps, *_look(model)))
    kind = "multiplexed" if multiplexed else "per feature"
    seconds = time.monotonic() - began
    auc = _auc(model, folder, feature_set, profile)
    harness.progress(f"{budget}x, {kind}: AUC {auc:.4f}, {seconds:.0f} s")
    found = _collisions(layout, folder)
    values = sum(one.values for one in found)
    return Outcome(
        budget=budget,
        multiplexed=multiplexed,
        rows=layout.rows,
        auc=auc,
        curve=tuple(curve),
        residents=sum(one.values * one.within.values for one in found) / values,
        alone=1 - sum(one.values * one.in_one_lookup.values for one in found) / values,
        seconds=seconds,
    )


def _begin_alike(model: Model) -> None:
    """Gives every feature the same reader."""
    with torch.no_grad():
        head = model.tower.get_parameter("head.weight")
        first = torch.nn.functional.normalize(head[0, :WIDTH], dim=0)
        head.copy_(first.repeat(len(NAMES)))


def _look(model: Model) -> tuple[float, float]:
    """Returns the mean angle of the readers, NaN where none share rows, and the mean squared
    norm of the rows."""
    parameters = {name: value.detach().numpy() for name, value in model.tower.named_parameters()}
    angles = layer_angles(model.layout, parameters)
    squared = float(model.engine.weight.pow(2).sum(1).mean())
    return (angles.mean if isinstance(angles, Angles) else float("nan")), squared


def _auc(model: Model, folder: Path, feature_set: FeatureSet, profile: Profile) -> float:
    test = open_dataset("test.parquet", folder)
    scores, labels = [], []
    with FileStream(test, feature_set, profile, batch_size=8192) as stream:
        for item in stream:
            scores.append(model.predict(item.batch))
            labels.append(np.array(item.batch.label))
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))


def _collisions(layout: Layout, folder: Path) -> tuple[FeatureCollisions, ...]:
    values = count_values(open_dataset("train.parquet", folder), layout, most_rows=10**9).features
    return count_collisions(layout, values, count_rows(layout, values))
