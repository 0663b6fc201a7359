"""The exchange engine over real ranks against one process on the whole batch."""

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from features.errors import ConfigError, LostRankError
from features.routing import Bag, RowBatch
from sharding.bounds import shard_bounds
from sharding.ranks import Ranks
from sharding.table import create_engine
from tests.ranks import run_ranks
from tests.sharding.batches import make_batch, settings

ROWS = 400
OPTIMIZERS = ["rowwise_adagrad", "adagrad", "adam", "sgd"]
TOLERANCES = {"rowwise_adagrad": 1e-5, "adagrad": 1e-4, "adam": 1e-5, "sgd": 1e-5}
TRANSPORTS = ["network", "shared_memory"]


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


def train(ranks, config, width, steps, table_rows=ROWS, replayed=False, threads=1, name="auto"):
    """Trains on this rank's parts of the global batches; the gradient depends on the output."""
    engine = create_engine(name, table_rows, width, config, 3, threads, ranks=ranks)
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


def same(tables):
    """Whether all tables are equal bit for bit."""
    return all(
        np.array_equal(array, table[name]) for table in tables for name, array in tables[0].items()
    )


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


@pytest.mark.parametrize("width", [1, 15, 16, 32])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_rank_alone_is_the_fused_engine_bit_for_bit(optimizer, width):
    config = settings(optimizer, wire="float16")

    tables = [
        train(Ranks.alone(), config, width, 10, name=name).state() for name in ("fused", "exchange")
    ]

    assert same(tables)


def run_variants(ranks):
    """Returns tables that have to be equal, and how far those on 16-bit wires are from them."""
    equal, distances = {}, {}
    for optimizer in ("rowwise_adagrad", "adam"):
        config = settings(optimizer, learning_rate=0.01)
        first, *others = [
            assembled(train(ranks, config.model_copy(update=change), 15, 20, threads=threads))
            for change, threads in (
                ({"transport": "network"}, 1),
                ({"transport": "network"}, 1),
                ({"transport": "network"}, 2),
                ({"transport": "shared_memory"}, 1),
                ({"transport": "shared_memory"}, 2),
            )
        ]
        equal[optimizer] = same([first, *others])
        for wire in ("float16", "bfloat16"):
            rounded = [
                assembled(train(ranks, config.model_copy(update={"wire": wire} | change), 15, 20))
                for change in ({"transport": name} for name in TRANSPORTS)
            ]
            equal[optimizer, wire] = same(rounded)
            distances[optimizer, wire] = float(np.abs(rounded[0]["weight"] - first["weight"]).max())
    return equal, distances


@pytest.mark.parametrize("world_size", [2, 3])
def test_tables_repeat_bit_for_bit_whatever_carries_them(world_size):
    results = run_ranks(world_size, run_variants)

    equal, distances = results[0]
    assert all(equal.values()), equal
    # Rows move by some 0.1; float16 keeps 11 bits of a value, bfloat16 8.
    assert 0 < distances["rowwise_adagrad", "float16"] < 1e-3
    assert 0 < distances["rowwise_adagrad", "bfloat16"] < 1e-2
    assert 0 < distances["adam", "float16"] < 0.05


def train_sizes(ranks):
    tables = {}
    for width, table_rows in ((1, ROWS), (32, ROWS), (4, 3), (4, 1)):
        engine = train(ranks, settings("rowwise_adagrad"), width, 10, table_rows)
        bounds = shard_bounds(table_rows, ranks.world_size)
        assert (engine.first_row, engine.num_local_rows) == (
            bounds[ranks.rank],
            bounds[ranks.rank + 1] - bounds[ranks.rank],
        )
        assert len(engine.weight) == engine.num_local_rows
        tables[width, table_rows] = assembled(engine)
    return tables


def test_widths_and_tables_with_fewer_rows_than_ranks_agree_with_one_process():
    expected = run_ranks(1, train_sizes)[0]

    tables = run_ranks(4, train_sizes)[0]

    for key, table in tables.items():
        for name, array in expected[key].items():
            np.testing.assert_allclose(table[name], array, atol=1e-5, rtol=1e-5)


def look_up_and_reload(ranks):
    """Trains, looks up without gradients, and puts the state into an engine of another seed."""
    seen = []
    config = settings("adam", transport="network")
    engine = create_engine("exchange", ROWS, 15, config, 3, 1, ranks=ranks)
    engine.on_touched = lambda rows: seen.append(rows.copy())
    batch = make_batch(np.random.default_rng(ranks.rank), 20, 3, 15, ROWS, with_bags=True)
    start = ranks.bytes_sent
    engine.lookup(batch).sum().backward()
    bytes_of_step = ranks.bytes_sent - start
    before, start = assembled(engine), ranks.bytes_sent
    with torch.no_grad():
        vectors = engine.lookup(batch)
    bytes_of_lookup = ranks.bytes_sent - start
    whole = {name: array.copy() for name, array in engine.state().items()}

    def read(name, first, last, out):
        assert engine.first_row <= first <= last <= engine.first_row + engine.num_local_rows
        out[...] = whole[name][first - engine.first_row : last - engine.first_row]

    other = create_engine("exchange", ROWS, 15, config, 99, 1, ranks=ranks)
    other.load_state(read, engine.scalars())
    with torch.no_grad():
        is_restored = torch.equal(other.lookup(batch), vectors)
    touched = np.unique(np.concatenate(seen)) + engine.first_row
    rows = np.concatenate([batch.rows.ravel(), *(bag.rows.ravel() for bag in batch.bags)])
    unchanged = same([before, assembled(engine)])
    return unchanged, is_restored, engine.step, touched, rows, bytes_of_lookup, bytes_of_step


def test_lookups_without_gradients_send_none_and_states_come_back():
    results = run_ranks(3, look_up_and_reload)

    touched = np.concatenate([result[3] for result in results])
    asked = np.unique(np.concatenate([result[4] for result in results]))
    np.testing.assert_array_equal(touched, asked)
    assert all(unchanged and is_restored for unchanged, is_restored, *_ in results)
    assert [result[2] for result in results] == [1, 1, 1]
    of_lookup, of_step = (sum(result[place] for result in results) for place in (5, 6))
    assert 0 < of_lookup < 0.6 * of_step


def look_up_outside(ranks, transport):
    engine = create_engine(
        "exchange", ROWS, 4, settings("sgd", transport=transport), 3, 1, ranks=ranks
    )
    row = ROWS if ranks.rank == 1 else 5
    began = time.monotonic()
    try:
        engine.lookup(RowBatch(1, np.array([[row]]), np.array([0]), (), 4))
    except (IndexError, LostRankError) as exc:
        return type(exc).__name__, str(exc), time.monotonic() - began
    return "", "", 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_row_outside_the_table_stops_every_rank_at_once(transport):
    results = run_ranks(3, look_up_outside, transport)

    assert [name for name, _, _ in results] == ["LostRankError", "IndexError", "LostRankError"]
    assert f"is {ROWS}, the table has {ROWS} rows" in results[1][1]
    assert "rank 1" in results[0][1]
    assert max(seconds for _, _, seconds in results) < 10


def lose_a_rank(ranks):
    config = settings("sgd", transport="shared_memory")
    engine = create_engine("exchange", ROWS, 4, config, 3, 1, ranks=ranks)
    batch = RowBatch(1, np.array([[5]]), np.array([0]), (), 4)
    engine.lookup(batch).sum().backward()
    if ranks.rank == 1:
        os._exit(9)
    began = time.monotonic()
    with pytest.raises(LostRankError, match="rank 1 ended"):
        engine.lookup(batch)
    return time.monotonic() - began


def test_a_rank_that_dies_is_missed_at_once():
    seconds = run_ranks(3, lose_a_rank, dying=[1])

    assert seconds[1] is None
    assert max(seconds[0], seconds[2]) < 5


def connect_without_room(ranks):
    """Returns the transport where one rank has no address space left to map the others' memory."""
    if ranks.rank == 1:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), resource.RLIM_INFINITY))
    with pytest.raises(ConfigError, match=r'table.transport = "network"'):
        create_engine(
            "exchange", 9, 4, settings("sgd", transport="shared_memory"), 3, 1, ranks=ranks
        )
    engine = create_engine("exchange", 9, 4, settings("sgd"), 3, 1, ranks=ranks)
    engine.lookup(RowBatch(1, np.array([[5]]), np.array([0]), (), 4)).sum().backward()
    return ranks.bytes_sent


def test_ranks_that_share_no_memory_use_the_network():
    sent = run_ranks(2, connect_without_room)

    assert sum(sent) > 0


def test_several_ranks_refuse_the_fused_engine():
    results = run_ranks(2, make_fused)

    assert all('set table.engine = "exchange"' in text for text in results)


def make_fused(ranks):
    with pytest.raises(ConfigError) as caught:
        create_engine("fused", 9, 4, settings("sgd"), 3, 1, ranks=ranks)
    return str(caught.value)
