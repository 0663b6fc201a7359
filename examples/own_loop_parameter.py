"""Your own model and loop, with the table as an ordinary parameter and a list feature.

    python examples/own_loop_parameter.py

Expected: validation AUC 0.765 (0.75 to 0.78 elsewhere), in four seconds on one core.

60,000 sessions are made up here: a user and the tags of the page, none to five of them. The rows
get sparse gradients for SparseAdam, the tower dense ones for Adam; with sparse=False one optimizer
would do for both. Its state is tensors alone, so it goes into a safetensors file, without pickle.
"""

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from muxtable import UnifiedEmbedding

NUM_SAMPLES, BATCH_SIZE = 60_000, 512
NUM_USERS, NUM_TAGS = 5_000, 2_000


def make_sessions() -> tuple[Tensor, pa.Array, Tensor]:
    """Returns users, lists of tags and labels."""
    generator = np.random.default_rng(0)
    users = (generator.random(NUM_SAMPLES) ** 2 * NUM_USERS).astype(np.int64)
    lengths = generator.integers(0, 6, NUM_SAMPLES)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tags = (generator.random(offsets[-1]) ** 2 * NUM_TAGS).astype(np.int64)
    taste = np.concatenate([[0], np.cumsum(generator.normal(0, 2, NUM_TAGS)[tags])])
    score = generator.normal(0, 1, NUM_USERS)[users]
    score += (taste[offsets[1:]] - taste[offsets[:-1]]) / np.maximum(lengths, 1)
    labels = generator.random(NUM_SAMPLES) < 1 / (1 + np.exp(-score))
    lists = pa.LargeListArray.from_arrays(offsets, tags)
    return torch.from_numpy(users), lists, torch.from_numpy(labels.astype(np.float32))


class Model(nn.Module):
    """Embeddings under a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = UnifiedEmbedding(
            {"user": 2, "tags": 2},
            lists={"tags": "mean"},
            rows=8_000,
            width=8,
            optimizer=None,
            sparse=True,
        )
        self.tower = nn.Sequential(nn.Linear(self.embed.out_width, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, users: Tensor, tags: pa.Array) -> Tensor:
        """Returns logits [B]."""
        return self.tower(self.embed({"user": users, "tags": tags})).squeeze(1)


def auc(labels: Tensor, scores: Tensor) -> float:
    """Returns the chance that a click is scored above a non-click."""
    ranks = scores.argsort().argsort().double() + 1
    positives = labels.sum().double()
    above = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))


def main() -> float:
    """Trains three epochs on nine tenths and returns the AUC on the rest."""
    torch.manual_seed(0)
    users, tags, labels = make_sessions()
    model = Model()
    optimizers = [
        torch.optim.SparseAdam(list(model.embed.parameters()), lr=2e-3),
        torch.optim.Adam(model.tower.parameters(), lr=2e-3),
    ]
    num_train = NUM_SAMPLES * 9 // 10
    for _ in range(3):
        for first in range(0, num_train, BATCH_SIZE):
            batch = slice(first, min(first + BATCH_SIZE, num_train))
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(users[batch], tags[batch]), labels[batch]
            )
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

    saved = save(model.state_dict())
    served = Model()
    served.load_state_dict(load(saved))
    served.eval()
    with torch.no_grad():
        scores = served(users[num_train:], tags[num_train:])
    result = auc(labels[num_train:], scores)
    print(f"validation AUC {result:.4f}")
    return result


if __name__ == "__main__":
    main()
