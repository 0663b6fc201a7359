"""Global batches cut into the ranks' shares, and one training run that any number of ranks can do.

Every rank draws the same global batches and takes its own samples of each: the shares are uneven,
and now and then a rank has none at all.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from features.routing import Bag, RowBatch
from sharding.ranks import Ranks
from sharding.table import TableEngine
from tests.sharding.batches import Task, make_batch, make_tower


def share_bounds(num_rows: int, world_size: int, step: int) -> list[int]:
    """The ends of the ranks' shares of a global batch: they change from step to step."""
    weights = [(rank + step) % (world_size + 1) for rank in range(world_size)]
    if not any(weights):
        weights[0] = 1
    return [num_rows * sum(weights[:rank]) // sum(weights) for rank in range(world_size + 1)]


def share_of(batch: RowBatch, first: int, last: int) -> RowBatch:
    """The samples first..last-1 of a batch."""
    bags = []
    for bag in batch.bags:
        begin, end = bag.offsets[first], bag.offsets[last]
        offsets = bag.offsets[first : last + 1] - begin
        bags.append(Bag(bag.rows[:, begin:end], offsets, bag.mean, bag.column))
    return RowBatch(
        last - first, batch.rows[:, first:last], batch.columns, tuple(bags), batch.out_width
    )


def train_share(engine: TableEngine, ranks: Ranks, task: Task, steps: int, batch_size: int) -> None:
    """Trains table and tower on this rank's shares, with the loss of the global batch."""
    first, _ = task.draw(1)
    tower = make_tower(first.out_width)
    optimizer = torch.optim.Adam(tower.parameters(), lr=1e-3)
    for step in range(steps):
        batch, labels = task.draw(batch_size)
        bounds = share_bounds(batch_size, ranks.world_size, step)
        mine = slice(*bounds[ranks.rank : ranks.rank + 2])
        vectors = engine.lookup(share_of(batch, mine.start, mine.stop))
        logits = tower(vectors).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits, labels[mine], reduction="sum")
        optimizer.zero_grad()
        (loss / batch_size).backward()
        for parameter in tower.parameters():
            ranks.sum(parameter.grad)
        optimizer.step()
        with torch.no_grad():
            # A look between the steps is only a look.
            engine.lookup(share_of(batch, 0, ranks.rank))


def replay_share(
    engine: TableEngine, ranks: Ranks, steps: int, table_rows: int, with_bags: bool
) -> None:
    """Applies this rank's shares of made-up output gradients, at a falling learning rate."""
    generator = np.random.default_rng(3)
    for step in range(steps):
        batch = make_batch(generator, 48, 4, engine.width, table_rows, with_bags)
        gradient = generator.normal(0, 0.01, (48, batch.out_width)).astype(np.float32)
        bounds = share_bounds(48, ranks.world_size, step)
        first, last = bounds[ranks.rank : ranks.rank + 2]
        engine.learning_rate = engine.settings.learning_rate * (1 - step / (2 * steps))
        engine.apply_gradient(share_of(batch, first, last), torch.from_numpy(gradient[first:last]))


def whole(states: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The table's state put together from that of each rank."""
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def copied(engine: TableEngine) -> dict[str, Tensor]:
    """An engine's own rows and states, fit to be sent to the test."""
    return {name: np.array(array) for name, array in engine.state().items()}
