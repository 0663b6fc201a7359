"""Your own model and loop, with the table's optimizer fused into the backward pass.

    python examples/own_loop_fused.py

Expected: validation AUC 0.742 (0.73 to 0.75 elsewhere), in three seconds on one core.

100,000 clicks are made up here: 20,000 users, 5,000 items and 1,000 cities, each with a hidden
taste, in a table of 256 KiB: a sixth of what vectors of their own would take.
"""

import numpy as np
import torch
from torch import Tensor, nn

from muxtable import UnifiedEmbedding

NUM_SAMPLES, BATCH_SIZE = 100_000, 512
SIZES = {"user": 20_000, "item": 5_000, "city": 1_000}


def make_clicks() -> tuple[dict[str, np.ndarray], Tensor]:
    """Returns ids by feature and labels; items are strings, as in a real log."""
    generator = np.random.default_rng(0)
    ids, score = {}, np.full(NUM_SAMPLES, -0.5)
    for name, size in SIZES.items():
        ids[name] = (generator.random(NUM_SAMPLES) ** 2 * size).astype(np.int64)
        score += generator.normal(0, 1, size)[ids[name]]
    labels = generator.random(NUM_SAMPLES) < 1 / (1 + np.exp(-score))
    ids["item"] = np.char.add("sku-", ids["item"].astype(str))
    return ids, torch.from_numpy(labels.astype(np.float32))


class Model(nn.Module):
    """Embeddings under a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = UnifiedEmbedding(
            {"user": 2, "item": 2, "city": 1}, budget="256 KiB", width=8, learning_rate=0.05
        )
        self.tower = nn.Sequential(nn.Linear(self.embed.out_width, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, ids: dict[str, np.ndarray]) -> Tensor:
        """Returns logits [B]."""
        return self.tower(self.embed(ids)).squeeze(1)


def auc(labels: Tensor, scores: Tensor) -> float:
    """Returns the chance that a click is scored above a non-click."""
    ranks = scores.argsort().argsort().double() + 1
    positives = labels.sum().double()
    above = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))


def main() -> float:
    """Trains one epoch on nine tenths and returns the AUC on the rest."""
    torch.manual_seed(0)
    ids, labels = make_clicks()
    model = Model()
    # The table trains itself: parameters() are the tower's alone.
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    num_train = NUM_SAMPLES * 9 // 10
    for first in range(0, num_train, BATCH_SIZE):
        batch = slice(first, min(first + BATCH_SIZE, num_train))
        logits = model({name: values[batch] for name, values in ids.items()})
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[batch])
        # Schedules set it like any learning rate; here it falls linearly to a fifth.
        model.embed.learning_rate = 0.05 * (1 - 0.8 * first / num_train)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = model({name: values[num_train:] for name, values in ids.items()})
    result = auc(labels[num_train:], scores)
    print(f"validation AUC {result:.4f} after {model.embed.engine.step} steps")
    return result


if __name__ == "__main__":
    main()
