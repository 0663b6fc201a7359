"""Deltas as a run writes them, by several ranks: real tables, real processes."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError
from sharding.bounds import shard_bounds
from sharding.ranks import Ranks
from storage.parts import Sharded
from tests.ranks import run_ranks
from trainer.checkpoint import CheckpointStore, latest_checkpoint
from trainer.deltas import Deltas

ROWS, WIDTH = 3000, 8


class Shard:
    """A rank's rows of a table and its optimizer's state, moved at random."""

    def __init__(self, ranks, rows: int = ROWS) -> None:
        bounds = shard_bounds(rows, ranks.world_size)
        self.first, self.end = bounds[ranks.rank], bounds[ranks.rank + 1]
        self.rows = rows
        self.weight = np.zeros((self.end - self.first, WIDTH), np.float32)
        self.momentum = np.zeros(self.end - self.first, np.float32)

    def move(self, seed: int, count: int, mark) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, self.rows, count)
        values = rng.random((self.rows, WIDTH), dtype=np.float32)
        local = rows[(rows >= self.first) & (rows < self.end)] - self.first
        self.weight[local] = values[local + self.first]
        self.momentum[local] = seed
        mark(local)

    def sharded(self) -> dict[str, Sharded]:
        return {
            f"table.{name}": Sharded(array=array, first_row=self.first, num_rows=self.rows)
            for name, array in (("weight", self.weight), ("momentum1", self.momentum))
        }


def whole(steps: int, count: int) -> Shard:
    shard = Shard(Ranks.alone())
    for step in range(1, steps + 1):
        shard.move(step, count, lambda _rows: None)
    return shard


def check(directory: Path, step: int, count: int) -> None:
    expected = whole(step, count)
    with latest_checkpoint(directory) as checkpoint:
        assert checkpoint.content["at"] == step
        np.testing.assert_array_equal(checkpoint.tensor("table.weight"), expected.weight)
        np.testing.assert_array_equal(checkpoint.tensor("table.momentum1"), expected.momentum)


def train(ranks, directory: Path, limit: int, steps: list[int], count: int, is_async: bool = True):
    """Goes on from the last checkpoint with `count` rows a step; returns what was saved."""
    shard = Shard(ranks)
    told = []
    with CheckpointStore(directory, 3, ranks=ranks, copy_budget=2**20) as store:
        store.deltas = Deltas(limit, shard.first, shard.end - shard.first)
        found = store.latest()
        if found is not None:
            found.read_rows("table.weight", shard.first, shard.end, shard.weight)
            found.read_rows("table.momentum1", shard.first, shard.end, shard.momentum)
            store.deltas.resume(found)
        for step in steps:
            shard.move(step, count, store.deltas.touched.mark)
            if is_async:
                store.save_async(step, shard.sharded(), {}, {}, {"at": step})
                # What moves while it is written is not in it.
                saved = store.wait()
            else:
                saved = store.save(step, shard.sharded(), {}, {}, {"at": step})
            told.append((saved.name, saved.base, saved.size_bytes))
    return told


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_base_and_its_delta_are_the_whole_bit_for_bit(tmp_path, world_size):
    told = []
    for step in range(1, 8):
        told += run_ranks(world_size, train, tmp_path / "c", 4, [step], 60)[0]
        check(tmp_path / "c", step, 60)

    bases = [base for _, base, _ in told]
    first = "step-0000000001"
    # A whole one, four on it, and again: the count outlives the processes.
    assert bases == [None, first, first, first, first, None, "step-0000000006"]


def test_twenty_deltas_of_random_rows_each_equal_the_whole(tmp_path):
    for step in range(1, 22):
        ((name, base, size),) = train(Ranks.alone(), tmp_path / "c", 30, [step], 20, step % 2 == 0)
        check(tmp_path / "c", step, 20)
        if step > 1:
            assert base == "step-0000000001"
            touched = int((whole(step, 20).momentum > 1).sum())
            assert size <= 1.15 * touched * (WIDTH + 1) * 4 + 2**16, name


def test_a_delta_of_more_than_half_of_the_table_is_written_whole(tmp_path):
    told = train(Ranks.alone(), tmp_path / "c", 100, [1, 2, 3, 4], 1200)

    assert [base for _, base, _ in told] == [None, "step-0000000001", None, "step-0000000003"]
    check(tmp_path / "c", 4, 1200)


def test_pruning_keeps_the_base_of_every_delta_it_keeps(tmp_path):
    train(Ranks.alone(), tmp_path / "c", 5, list(range(1, 10)), 60)

    names = sorted(path.name for path in (tmp_path / "c").glob("step-*"))
    assert [int(name[5:]) for name in names] == [7, 8, 9]
    train(Ranks.alone(), tmp_path / "c", 100, list(range(10, 15)), 60)
    names = sorted(path.name for path in (tmp_path / "c").glob("step-*"))
    assert [int(name[5:]) for name in names] == [7, 12, 13, 14]
    check(tmp_path / "c", 14, 60)


def test_a_save_that_failed_loses_no_row_of_the_next(tmp_path):
    shard = Shard(Ranks.alone())
    with CheckpointStore(tmp_path / "c", 9, copy_budget=2**20) as store:
        store.deltas = Deltas(3, 0, ROWS)
        for step in range(1, 12):
            shard.move(step, 60, store.deltas.touched.mark)
            if step % 3 == 0:
                with pytest.raises(SnapshotError):
                    store.save(step, shard.sharded(), {}, {"manifest.json": b""}, {})
            else:
                store.save(step, shard.sharded(), {}, {}, {"at": step})
                check(tmp_path / "c", step, 60)


@pytest.mark.parametrize("saved_at", [1, 2, 3, 4])
def test_what_any_number_of_ranks_saved_any_other_number_goes_on_from(tmp_path, saved_at):
    run_ranks(saved_at, train, tmp_path / "c", 9, [1, 2, 3], 100)

    step = 3
    for world_size in {1, 2, 3, 4} - {saved_at}:
        step += 1
        told = run_ranks(world_size, train, tmp_path / "c", 9, [step], 100)
        assert told[0][0][1] == "step-0000000001"
        check(tmp_path / "c", step, 100)
