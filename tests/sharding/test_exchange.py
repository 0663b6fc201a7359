"""The exchange engine over real ranks against one process on the whole batch."""

import numpy as np
import pytest
import torch

from features.routing import Bag, RowBatch
from sharding.table import create_engine
from tests.ranks import run_ranks
from tests.sharding.batches import make_batch, settings

ROWS = 400
OPTIMIZERS = ["rowwise_adagrad", "adagrad", "adam", "sgd"]
TOLERANCES = {"rowwise_adagrad": 1e-5, "adagrad": 1e-4, "adam": 1e-5, "sgd": 1e-5}


def part_of(batch, first, last):
    """Returns the samples first..last-1 of a batch."""
    bags = []
    for bag in batch.bags:
        begin, end = bag.offsets[first], bag.offsets[last]
        offsets = bag.offsets[first : last + 1] - begin
        bags.append(Bag(bag.rows[:, begin:end].copy(), offsets, bag.mean, bag.column))
    rows = batch.rows[:, first:last]
    return RowBatch(last - first, rows, batch.columns, tuple(bags), batch.out_width)


def cuts(num_samples, world_size, step):
    """Where the ranks' uneven parts of a global batch end; in some steps a rank has nothing."""
    generator = np.random.default_rng(1000 + step)
    inner = np.sort(generator.integers(0, num_samples + 1, world_size - 1))
    if step % 3 == 0 and world_size > 1:
        inner[0] = 0
    return [0, *inner.tolist(), num_samples]


def batches(count, width, table_rows=ROWS, samples=48):
    generator = np.random.default_rng(5)
    for _ in range(count):
        yield make_batch(generator, samples, 4, width, table_rows, with_bags=True)


def assembled(engine):
    """Returns the state of the whole table on rank 0."""
    whole = {}
    for name, array in engine.state().items():
        parts = engine.ranks.gather(np.ascontiguousarray(array).tobytes())
        shape = (-1, *array.shape[1:])
        whole[name] = np.concatenate(
            [np.frombuffer(part, np.float32).reshape(shape) for part in parts] or [array]
        )
    return whole


def train(ranks, config, width, steps, table_rows=ROWS, replayed=False, threads=1):
    """Trains on this rank's parts of the global batches; the gradient depends on the output."""
    engine = create_engine("auto", table_rows, width, config, 3, threads, ranks=ranks)
    for step, batch in enumerate(batches(steps, width, table_rows)):
        ends = cuts(batch.num_rows, ranks.world_size, step)
        first, last = ends[ranks.rank], ends[ranks.rank + 1]
        mine = part_of(batch, first, last)
        if replayed:
            generator = np.random.default_rng(step)
            gradient = generator.normal(0, 0.01, (batch.num_rows, batch.out_width))
            engine.apply_gradient(mine, torch.from_numpy(gradient[first:last]).float())
        else:
            vectors = engine.lookup(mine)
            targets = torch.linspace(-1, 1, batch.out_width)
            (vectors - targets).square().sum().mul(0.01).backward()
    return engine


def run_all(ranks, width):
    tables = {}
    for optimizer in OPTIMIZERS:
        rate = 0.01 if optimizer == "adam" else 0.05
        config = settings(optimizer, learning_rate=rate)
        tables[optimizer, "trained"] = assembled(train(ranks, config, width, 20))
        tables[optimizer, "replayed"] = assembled(train(ranks, config, width, 200, replayed=True))
    return tables


@pytest.fixture(scope="module")
def one_process():
    return {width: run_ranks(1, run_all, width)[0] for width in (15, 16)}


@pytest.mark.parametrize("width", [15, 16])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_ranks_trains_the_table_of_one_process(one_process, world_size, width):
    expected = one_process[width]

    tables = run_ranks(world_size, run_all, width)[0]

    for (optimizer, how), table in tables.items():
        for name, array in expected[optimizer, how].items():
            difference = np.abs(table[name] - array).max()
            assert difference < TOLERANCES[optimizer], (optimizer, how, name)
        assert np.abs(table["weight"]).max() > 0.06
