"""The two engines against each other and against plain torch: the acceptance list of the table."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from features.routing import RowBatch
from native.memory import tune_allocator
from sharding.table import TableEngine, create_engine
from tests.sharding.batches import PlainTable, Task, make_batch, make_tower, settings

TABLE_ROWS = 400
# Adagrad divides by the root of sums that start near zero, so it amplifies rounding the most.
FBGEMM_OPTIMIZERS = [("rowwise_adagrad", 1e-5), ("adagrad", 1e-4), ("sgd", 1e-5)]
WIDTHS = [16, 15, 1]


def make_pair(optimizer: str, width: int) -> tuple[TableEngine, TableEngine]:
    engines = [
        create_engine(name, TABLE_ROWS, width, settings(optimizer), seed=7, threads=1)
        for name in ("fused", "torchrec")
    ]
    return engines[0], engines[1]


def train(engine: TableEngine, task: Task, steps: int, batch_size: int) -> nn.Module:
    """Trains table and tower end to end on the task's stream."""
    first, _ = task.draw(1)
    tower = make_tower(first.out_width)
    optimizer = torch.optim.Adam(tower.parameters(), lr=1e-3)
    for _ in range(steps):
        batch, labels = task.draw(batch_size)
        loss = F.binary_cross_entropy_with_logits(tower(engine.lookup(batch)).squeeze(1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tower


def table_difference(one: TableEngine, other: TableEngine) -> float:
    return float(np.abs(one.state()["weight"] - other.state()["weight"]).max())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_engines_start_from_the_same_table(optimizer, width):
    fused, torchrec = make_pair(optimizer, width)

    ours, theirs = fused.state(), torchrec.state()

    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert np.abs(ours["weight"]).max() > 0.04


@pytest.mark.parametrize("with_bags", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_lookups_of_both_engines_agree(width, with_bags):
    fused, torchrec = make_pair("sgd", width)
    batch = make_batch(np.random.default_rng(1), 64, 5, width, TABLE_ROWS, with_bags)

    ours, theirs = fused.lookup(batch), torchrec.lookup(batch)

    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("with_bags", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("optimizer", "tolerance"), FBGEMM_OPTIMIZERS)
def test_twenty_steps_end_to_end_agree(optimizer, tolerance, width, with_bags):
    fused, torchrec = make_pair(optimizer, width)

    for engine in (fused, torchrec):
        train(engine, Task(TABLE_ROWS, width, with_bags), steps=20, batch_size=64)

    assert table_difference(fused, torchrec) < tolerance
    assert fused.step == torchrec.step == 20


@pytest.mark.parametrize("with_bags", [False, True])
@pytest.mark.parametrize("width", [16, 15])
@pytest.mark.parametrize(("optimizer", "tolerance"), FBGEMM_OPTIMIZERS)
def test_two_hundred_replayed_gradients_agree(optimizer, tolerance, width, with_bags):
    fused, torchrec = make_pair(optimizer, width)
    generator = np.random.default_rng(3)

    for _ in range(200):
        batch = make_batch(generator, 64, 4, width, TABLE_ROWS, with_bags)
        gradient = torch.from_numpy(
            generator.normal(0, 0.01, (64, batch.out_width)).astype(np.float32)
        )
        fused.apply_gradient(batch, gradient)
        torchrec.apply_gradient(batch, gradient)

    assert table_difference(fused, torchrec) < tolerance
    assert fused.step == torchrec.step == 200


@pytest.mark.parametrize("width", [16, 15])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_two_hundred_steps_end_at_the_same_auc(optimizer, width):
    engines = make_pair(optimizer, width)
    aucs = []

    for engine in engines:
        task = Task(TABLE_ROWS, width, with_bags=False)
        tower = train(engine, task, steps=200, batch_size=256)
        held_out, labels = task.draw(20_000)
        with torch.no_grad():
            aucs.append(roc_auc_score(labels, tower(engine.lookup(held_out)).squeeze(1)))

    assert abs(aucs[0] - aucs[1]) < 1e-4
    assert aucs[0] > 0.6


@pytest.mark.parametrize("with_bags", [False, True])
@pytest.mark.parametrize("width", [16, 15])
@pytest.mark.parametrize("name", ["fused", "torchrec"])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_training_equals_a_plain_torch_loop(optimizer, name, width, with_bags):
    config = settings(optimizer, learning_rate=0.02)
    engine = create_engine(name, TABLE_ROWS, width, config, seed=5, threads=1)
    plain = PlainTable(engine.state()["weight"].copy(), config)
    generator = np.random.default_rng(4)

    for _ in range(20):
        batch = make_batch(generator, 32, 4, width, TABLE_ROWS, with_bags)
        gradient = torch.from_numpy(generator.normal(0, 0.1, (32, batch.out_width)))
        engine.lookup(batch).backward(gradient.float())
        plain.lookup(batch).backward(gradient)
        plain.apply()

    np.testing.assert_allclose(engine.state()["weight"], plain.weight.detach(), atol=1e-5)


@pytest.mark.parametrize("with_bags", [False, True])
@pytest.mark.parametrize("width", [16, 15])
def test_adam_equals_sparse_adam(width, with_bags):
    config = settings("adam", learning_rate=0.01, beta1=0.8, beta2=0.95)
    engine = create_engine("fused", TABLE_ROWS, width, config, seed=5, threads=1)
    plain = PlainTable(engine.state()["weight"].copy(), config, torch.float32)
    sparse_adam = torch.optim.SparseAdam([plain.weight], 0.01, betas=(0.8, 0.95), eps=config.eps)
    generator = np.random.default_rng(4)

    for _ in range(50):
        batch = make_batch(generator, 32, 4, width, TABLE_ROWS, with_bags)
        gradient = torch.from_numpy(generator.normal(0, 0.1, (32, batch.out_width))).float()
        engine.lookup(batch).backward(gradient)
        plain.lookup(batch).backward(gradient)
        touched = np.unique(
            np.concatenate([batch.rows.ravel(), *(b.rows.ravel() for b in batch.bags)])
        )
        index = torch.from_numpy(touched)
        plain.weight.grad = torch.sparse_coo_tensor(
            index[None], plain.weight.grad[index], plain.weight.shape, check_invariants=True
        ).coalesce()
        sparse_adam.step()
        plain.weight.grad = None

    np.testing.assert_allclose(engine.state()["weight"], plain.weight.detach(), atol=1e-5)


@pytest.mark.parametrize("width", [32, 15])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "adam", "sgd"])
def test_tables_are_bit_identical_for_any_number_of_threads(optimizer, width):
    tune_allocator()
    engines = [
        create_engine("fused", 5_000, width, settings(optimizer), seed=7, threads=threads)
        for threads in (1, 2, 3)
    ]
    generator = np.random.default_rng(3)

    for _ in range(5):
        batch = make_batch(generator, 500, 6, width, 5_000, with_bags=True)
        gradient = torch.from_numpy(generator.normal(size=(500, batch.out_width))).float()
        vectors = [engine.lookup(batch) for engine in engines]
        for vector in vectors:
            vector.backward(gradient)

        assert torch.equal(vectors[0], vectors[1])
        assert torch.equal(vectors[0], vectors[2])

    states = [engine.state() for engine in engines]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])
        np.testing.assert_array_equal(array, states[2][name])


@pytest.mark.parametrize("name", ["fused", "torchrec"])
def test_a_row_read_by_every_lookup_of_one_sample_gets_one_step_on_the_sum(name):
    config = settings("rowwise_adagrad", learning_rate=0.5)
    engine = create_engine(name, 10, 4, config, seed=0, threads=1)
    batch = RowBatch(1, np.full((3, 1), 6), np.array([0, 4, 8]), (), 12)
    before = engine.state()["weight"].copy()

    engine.lookup(batch).backward(torch.ones(1, 12))

    # The summed gradient is 3 in each of 4 columns: s = 9 and the step is lr * 3 / 3.
    after = engine.state()
    assert after["momentum1"][6] * engine.state_width == pytest.approx(9 * 4)
    np.testing.assert_allclose(after["weight"][6], before[6] - 0.5, atol=1e-6)
    np.testing.assert_array_equal(np.delete(after["weight"], 6, 0), np.delete(before, 6, 0))
