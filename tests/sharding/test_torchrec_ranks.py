"""TorchRec's own modules over several ranks against one process on the concatenated batches."""

import itertools

import numpy as np
import pytest
import torch

from features.errors import ConfigError, LostRankError
from features.routing import RowBatch
from sharding.ranks import Ranks
from sharding.table import create_engine
from tests.ranks import run_ranks
from tests.sharding.batches import Task, make_batch, settings
from tests.sharding.shares import copied, replay_share, share_of, train_share, whole

TABLE_ROWS = 301
# Adagrad divides by the root of sums that start near zero, so it amplifies rounding the most.
TOLERANCES = {"rowwise_adagrad": 1e-5, "adagrad": 1e-4, "sgd": 1e-5}
# Every optimizer, a padded and an even width, with and without lists.
CASES = [
    ("rowwise_adagrad", 15, True),
    ("rowwise_adagrad", 16, False),
    ("adagrad", 15, True),
    ("sgd", 16, True),
]
ALL_CASES = list(itertools.product(TOLERANCES, [16, 15], [False, True]))


def make_engine(name, ranks, optimizer, width, rows=TABLE_ROWS):
    return create_engine(name, rows, width, settings(optimizer), seed=7, threads=1, ranks=ranks)


def train_cases(ranks, name, cases, num_replayed):
    """The states after 20 steps end to end, and after 200 replayed gradients in the first cases."""
    results = []
    for number, (optimizer, width, with_bags) in enumerate(cases):
        engine = make_engine(name, ranks, optimizer, width)
        states = [copied(engine)]
        train_share(engine, ranks, Task(TABLE_ROWS, width, with_bags), steps=20, batch_size=64)
        states.append(copied(engine))
        if number < num_replayed:
            engine = make_engine(name, ranks, optimizer, width)
            replay_share(engine, ranks, 200, TABLE_ROWS, with_bags)
            states.append(copied(engine))
        results.append((states, engine.step, engine.state_width))
    return results


def check_cases(world_size, cases, num_replayed):
    """Holds the ranks' tables against that of one process, state by state."""
    expected = train_cases(Ranks.alone(), "fused", cases, num_replayed)
    by_rank = run_ranks(world_size, train_cases, "torchrec", cases, num_replayed, timeout_s=900)

    for number, (optimizer, width, _) in enumerate(cases):
        states, step, _ = expected[number]
        parts = [of_rank[number] for of_rank in by_rank]
        tables = [
            whole(list(of_ranks)) for of_ranks in zip(*(part[0] for part in parts), strict=True)
        ]
        assert {part[1] for part in parts} == {step}
        np.testing.assert_array_equal(tables[0]["weight"], states[0]["weight"])
        for ours, theirs in zip(tables, states, strict=True):
            difference = np.abs(ours["weight"] - theirs["weight"]).max()
            assert difference < TOLERANCES[optimizer]
            for name in theirs.keys() - {"weight"}:
                # Row-wise, the mean is over the padded width.
                scale = parts[0][2] / width if optimizer == "rowwise_adagrad" else 1
                np.testing.assert_allclose(ours[name] * scale, theirs[name], rtol=1e-3, atol=1e-8)
        assert np.abs(tables[1]["weight"] - tables[0]["weight"]).max() > 0.005


# One rank is held against the fused engine by the tests of the engines.
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("world_size", "num_replayed"), [(2, 4), (3, 2), (4, 1)])
def test_any_number_of_ranks_trains_the_table_of_one_process(world_size, num_replayed):
    check_cases(world_size, CASES, num_replayed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_optimizer_and_width_trains_the_table_of_one_process(world_size):
    check_cases(world_size, ALL_CASES, len(ALL_CASES))


def _few_rows(ranks):
    """Five rows on four ranks: the last has none."""
    engine = make_engine("torchrec", ranks, "rowwise_adagrad", 4, rows=5)
    touched = []
    engine.on_touched = lambda rows: touched.extend((rows + engine.first_row).tolist())
    batch = make_batch(np.random.default_rng(0), 8, 2, 4, 5)
    empty = share_of(batch, 0, 0)

    engine.lookup(batch if ranks.rank == 0 else empty).square().sum().backward()
    nothing = engine.lookup(empty)
    nothing.sum().backward()
    row = np.full((1, 1), 9 if ranks.rank == 1 else 1)
    error = IndexError if ranks.rank == 1 else LostRankError
    with pytest.raises(error, match=r"a row is 9, the table has 5 rows|rank 1 asked for a row"):
        engine.lookup(RowBatch(1, row, np.zeros(1, np.int64), (), 4))

    other = engine.clone()
    saved = copied(engine)
    engine.weight.zero_()

    def read(name, first, last, out):
        out[...] = saved[name][first - engine.first_row : last - engine.first_row]

    engine.load_state(read, other.scalars())
    same = all(
        torch.equal(tensor, other.tensors()[name]) for name, tensor in engine.tensors().items()
    )
    return saved, touched, batch.rows, same, other.step, engine.memory_bytes()


def test_ranks_without_rows_or_samples_take_part():
    one = make_engine("fused", Ranks.alone(), "rowwise_adagrad", 4, rows=5)
    one.lookup(make_batch(np.random.default_rng(0), 8, 2, 4, 5)).square().sum().backward()

    results = run_ranks(4, _few_rows)

    states, touched, rows, same, steps, size_bytes = zip(*results, strict=True)
    assert [len(state["weight"]) for state in states] == [2, 2, 1, 0]
    assert size_bytes == (2 * 20, 2 * 20, 20, 0)
    np.testing.assert_allclose(whole(list(states))["weight"], one.state()["weight"], atol=1e-6)
    assert sorted(itertools.chain(*touched)) == sorted(rows[0].reshape(-1))
    assert all(same)
    assert steps == (2, 2, 2, 2)


def _adam(ranks):
    with pytest.raises(ConfigError, match="no Adam on a CPU") as raised:
        make_engine("torchrec", ranks, "adam", 16)
    return raised.value.fix, raised.value.exit_code


def test_adam_is_refused_on_a_cpu():
    results = run_ranks(2, _adam)

    assert {code for _, code in results} == {2}
    assert all('table.engine = "exchange"' in fix for fix, _ in results)
