"""Batches of rows, a plain torch table and a small tower for the tests of the engines."""

import numpy as np
import torch
from torch import Tensor, nn

from features.routing import Bag, RowBatch
from features.settings import TableSettings


def settings(optimizer: str, learning_rate: float = 0.05, **more) -> TableSettings:
    return TableSettings(rows=1, optimizer=optimizer, learning_rate=learning_rate, **more)


def make_batch(
    generator: np.random.Generator,
    num_rows: int,
    num_lookups: int,
    width: int,
    table_rows: int,
    with_bags: bool = False,
) -> RowBatch:
    """A skewed batch: rows repeat over samples, over lookups and inside one sample; with bags, two
    list features stand between the lookups' columns, one with two lookups, with empty samples."""

    def draw(*shape):
        skewed = (generator.random(shape) ** 3 * table_rows).astype(np.int64)
        return np.minimum(skewed, table_rows - 1)

    rows = draw(num_lookups, num_rows)
    if num_lookups > 1:
        rows[1, : num_rows // 2] = rows[0, : num_rows // 2]
    if not with_bags:
        columns = np.arange(num_lookups, dtype=np.int64) * width
        return RowBatch(num_rows, rows, columns, (), num_lookups * width)
    # Columns: [bag 0: one lookup] [lookups] [bag 1: two lookups]
    columns = (np.arange(num_lookups, dtype=np.int64) + 1) * width
    bags = []
    for num_bag_lookups, column, mean in ((1, 0, True), (2, (num_lookups + 1) * width, False)):
        lengths = generator.integers(0, 4, num_rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bags.append(Bag(draw(num_bag_lookups, int(offsets[-1])), offsets, mean, column))
    return RowBatch(num_rows, rows, columns, tuple(bags), (num_lookups + 3) * width)


class PlainTable:
    """The table as a textbook would write it: a dense gradient, then the formula on the rows."""

    def __init__(self, weight: np.ndarray, config: TableSettings, dtype=torch.float64):
        self.weight = torch.tensor(weight, dtype=dtype, requires_grad=True)
        self.config = config
        self.step = 0
        shape = len(weight) if config.optimizer == "rowwise_adagrad" else weight.shape
        self.momentum1 = torch.zeros(shape, dtype=dtype)
        self.momentum2 = torch.zeros(shape, dtype=dtype)

    def lookup(self, batch: RowBatch) -> Tensor:
        width = self.weight.shape[1]
        pieces = {
            int(column): self.weight[torch.from_numpy(rows)]
            for column, rows in zip(batch.columns, batch.rows, strict=True)
        }
        for bag in batch.bags:
            for k, rows in enumerate(bag.rows):
                pooled = []
                for first, last in zip(bag.offsets[:-1], bag.offsets[1:], strict=True):
                    values = self.weight[torch.from_numpy(rows[first:last])].sum(0)
                    pooled.append(values / max(1, int(last - first)) if bag.mean else values)
                pieces[bag.column + k * width] = torch.stack(pooled)
        return torch.cat([pieces[column] for column in sorted(pieces)], dim=1)

    def apply(self) -> None:
        """Takes the gradient that backward left and moves the rows it touched."""
        config, gradient = self.config, self.weight.grad
        self.weight.grad = None
        self.step += 1
        lr, eps = config.learning_rate, config.eps
        with torch.no_grad():
            if config.optimizer == "sgd":
                self.weight -= lr * gradient
            elif config.optimizer == "rowwise_adagrad":
                self.momentum1 += gradient.square().mean(1)
                self.weight -= lr * gradient / (self.momentum1.sqrt() + eps).unsqueeze(1)
            elif config.optimizer == "adagrad":
                self.momentum1 += gradient.square()
                self.weight -= lr * gradient / (self.momentum1.sqrt() + eps)
            else:
                raise AssertionError("Adam is held against torch.optim.SparseAdam")


def make_tower(width: int, seed: int = 0, dtype=torch.float32) -> nn.Module:
    """A two-layer tower whose start is a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    tower = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1)).to(dtype)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return tower


class Task:
    """A click task that rows can learn: each row has a hidden effect on the label."""

    def __init__(self, table_rows: int, width: int, with_bags: bool, seed: int = 0):
        self.generator = np.random.default_rng(seed)
        self.effects = self.generator.normal(0, 1.0, table_rows)
        self.table_rows, self.width, self.with_bags = table_rows, width, with_bags

    def draw(self, num_rows: int) -> tuple[RowBatch, Tensor]:
        batch = make_batch(
            self.generator, num_rows, 4, self.width, self.table_rows, with_bags=self.with_bags
        )
        logits = self.effects[batch.rows].sum(0)
        labels = self.generator.random(num_rows) < 1 / (1 + np.exp(-logits))
        return batch, torch.from_numpy(labels.astype(np.float32))
