"""Small modules of UnifiedEmbedding, samples for them, and their training."""

import io

import numpy as np
import pyarrow as pa
import torch

from muxtable import UnifiedEmbedding

FEATURES = {"user": 2, "item": 1, "tags": 1, "history": 2}
FUSED = ["rowwise_adagrad", "adagrad", "adam", "sgd"]


def make(optimizer="rowwise_adagrad", **more) -> UnifiedEmbedding:
    arguments = {
        "features": FEATURES,
        "rows": 200,
        "width": 3,
        "lists": {"tags": "sum"},
        "sequences": {"history": 2},
        "threads": 1,
        "optimizer": optimizer,
    }
    return UnifiedEmbedding(**(arguments | more))


def draw(seed=0, batch_size=6):
    generator = np.random.default_rng(seed)
    return {
        "user": torch.from_numpy(generator.integers(0, 9, batch_size)),
        "item": [f"item-{i}" for i in generator.integers(0, 9, batch_size)],
        "tags": [list(map(int, generator.integers(0, 9, n % 3))) for n in range(batch_size)],
        "history": pa.array(
            [list(map(int, generator.integers(0, 9, 1 + n % 4))) for n in range(batch_size)]
        ),
    }


def train(embed, steps=3, first=0, optimizer=None):
    for seed in range(first, first + steps):
        loss = (embed(draw(seed)) - 1).square().sum()
        if optimizer is not None:
            optimizer.zero_grad()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
    return loss


def saved_bytes(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer
