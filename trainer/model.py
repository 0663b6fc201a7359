"""A model: the layout that routes keys, the table engine, and the tower on top."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.batches import KeyBatch, RowBatch
from features.errors import ConfigError
from features.routing import Layout
from features.settings import TableSettings
from sharding.assemble import combine
from sharding.ranks import Ranks
from sharding.table import TableEngine, create_engine
from trainer.settings import TowerSettings, TrainSettings
from trainer.towers import Tower, build_tower


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Keys in, logits out."""

    layout: Layout
    engine: TableEngine
    tower: Tower
    device: torch.device

    def route(self, batch: KeyBatch) -> RowBatch:
        """Returns the rows of a batch's keys; may run in another thread than the rest."""
        return self.layout.route(batch, self.engine.num_threads)

    def embed(self, rows: RowBatch) -> Tensor:
        """Returns the embedding float32[B, out_width]; backward through it trains the table."""
        vectors = self.engine.lookup(rows)
        return combine(vectors, rows.parts) if rows.parts else vectors

    def logits(self, rows: RowBatch, dense: NDArray[np.float32]) -> Tensor:
        """Returns logits float32[B]; backward through them trains table and tower."""
        return self.tower(self.embed(rows), self.tensor(dense))

    def tensor(self, array: NDArray[np.float32]) -> Tensor:
        """Returns an array of the batch on the model's device."""
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def predict(self, batch: KeyBatch) -> NDArray[np.float64]:
        """Returns the probabilities [B] of a batch; nothing is trained.

        In float64: there two different logits below 30 have different probabilities.
        """
        was_training = self.tower.training
        self.tower.eval()
        try:
            with torch.inference_mode():
                logits = self.logits(self.route(batch), batch.dense)
                return torch.sigmoid(logits.double()).cpu().numpy()
        finally:
            self.tower.train(was_training)


def build_model(
    layout: Layout,
    num_dense: int,
    table: TableSettings,
    tower: TowerSettings,
    *,
    seed: int,
    threads: int,
    device: torch.device,
    ranks: Ranks | None = None,
) -> Model:
    """Returns an untrained model: a function of its arguments, the seed among them.

    Of several ranks each holds its rows of the table, and all of the tower.
    """
    widths = [route.width_total for route in layout.routes]
    # The tower first: it refuses wrong settings before memory is taken for the table.
    network = build_tower(tower, widths, num_dense, seed).to(device)
    engine = create_engine(
        table.engine,
        layout.rows,
        layout.width,
        table,
        seed,
        threads=threads,
        device=device,
        ranks=ranks,
    )
    return Model(layout, engine, network, device)


def choose_device(device: str) -> torch.device:
    """Returns the device of `train.device`: "auto" is the GPU where there is one.

    Raises ConfigError where a GPU is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is cuda, and torch sees no GPU here",
            'set train.device = "auto", or install a build of torch for this GPU',
        )
    return torch.device(device)


def num_threads(settings: TrainSettings) -> int:
    """Returns `train.threads`; unset it stands for the cores this process may use, shared among
    the ranks of this machine."""
    if settings.threads is not None:
        return settings.threads
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // Ranks.on_this_machine())
