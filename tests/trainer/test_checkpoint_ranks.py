"""Checkpoints that several ranks write into one directory: real processes over gloo."""

import errno
from pathlib import Path

import numpy as np
import pytest

from features.errors import MuxtableError
from sharding.bounds import shard_bounds
from storage.bundle import open_bundle
from storage.parts import Sharded
from tests.ranks import run_ranks
from tests.storage.faults import FailingDisk, leftovers
from trainer.checkpoint import CheckpointStore, latest_checkpoint

ROWS, WIDTH = 1001, 7


def table(step: int, rows: int = ROWS) -> np.ndarray:
    return np.arange(rows * WIDTH, dtype=np.float32).reshape(rows, WIDTH) + step


def shard(ranks, array: np.ndarray) -> dict[str, Sharded]:
    bounds = shard_bounds(len(array), ranks.world_size)
    first, end = bounds[ranks.rank], bounds[ranks.rank + 1]
    part = np.array(array[first:end])
    return {"table.weight": Sharded(array=part, first_row=first, num_rows=len(array))}


def save_steps(ranks, directory: Path, steps: list[int], rows: int = ROWS):
    with CheckpointStore(directory, 2, ranks=ranks, copy_budget=2**20) as store:
        saved = []
        for step in steps:
            tower = {"tower.bias": np.full(3, step if ranks.is_first else -1, np.float32)}
            store.save_async(step, shard(ranks, table(step, rows)), tower, {}, {"at": step})
            saved.append(store.wait())
        return [(each.name, each.digest, each.size_bytes) for each in saved]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_ranks_write_one_checkpoint_whatever_their_number(tmp_path, world_size):
    told = run_ranks(world_size, save_steps, tmp_path / "c", [1, 2])

    assert told == [told[0]] * world_size
    with latest_checkpoint(tmp_path / "c") as bundle:
        assert bundle.digest == told[0][1][1]
        assert bundle.content["at"] == 2
        np.testing.assert_array_equal(bundle.tensor("table.weight"), table(2))
        np.testing.assert_array_equal(bundle.tensor("tower.bias"), np.full(3, 2, np.float32))
        assert len(bundle.entry("table.weight").parts) == world_size
    assert leftovers(tmp_path / "c") == []


def test_ranks_without_rows_have_no_part_of_it(tmp_path):
    run_ranks(4, save_steps, tmp_path / "c", [1], 2)

    with latest_checkpoint(tmp_path / "c") as bundle:
        np.testing.assert_array_equal(bundle.tensor("table.weight"), table(1, 2))
        assert len(bundle.entry("table.weight").parts) == 2


FAULTS = [
    (failing, operation, is_async)
    for failing in (0, 2)
    for operation in ("create", "write", "sync")
    for is_async in (False, True)
]


def save_on_failing_disks(ranks, directory: Path) -> list[str]:
    """Returns what each fault made this rank say."""
    rows = shard(ranks, table(2, 200_000))
    told = []
    for failing, operation, is_async in FAULTS:
        disk = FailingDisk(operation, 10**9, errno.ENOSPC)
        with CheckpointStore(directory, 99, ranks=ranks, disk=disk, copy_budget=2**24) as store:
            if ranks.rank == failing:
                disk.at = disk.seen
            try:
                if is_async:
                    store.save_async(2, rows, {}, {}, {"at": 2})
                    store.wait()
                else:
                    store.save(2, rows, {}, {}, {"at": 2})
            except MuxtableError as exc:
                told.append(exc.what)
            else:
                told.append("saved")
            store.save(3, shard(ranks, table(3)), {}, {}, {"at": 3})
    return told


def test_a_rank_whose_disk_is_full_fails_the_save_on_all_and_nothing_is_committed(tmp_path):
    told = run_ranks(3, save_on_failing_disks, tmp_path / "c")

    for (failing, *_), *said in zip(FAULTS, *told, strict=True):
        file = f"r{failing:04d}-00000" if failing else "00000"
        for rank, each in enumerate(said):
            assert f'"{file}-table-weight.safetensors" of a bundle' in each
            assert "no space left" in each
            assert rank == failing == 0 or f"rank {failing}: " in each
    assert leftovers(tmp_path / "c") == []
    names = [path.name for path in (tmp_path / "c").glob("step-*")]
    assert len(names) == len(FAULTS)
    assert all("step-0000000003" in name for name in names)


def open_in(ranks, directories: list[Path]) -> str:
    try:
        CheckpointStore(directories[ranks.rank], 1, ranks=ranks).close()
    except MuxtableError as exc:
        return exc.what
    return "opened"


def test_a_rank_that_does_not_see_the_directory_is_found_out_before_training(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    told = run_ranks(3, open_in, [tmp_path / "c", tmp_path / "c", elsewhere])

    assert all("not the place that rank 0 writes to" in each for each in told)
    assert all("rank 2: " in each for each in told[:2])
    assert leftovers(tmp_path / "c") == []


def verify_latest(ranks, directory: Path, fallback: bool):
    with CheckpointStore(directory, 9, ranks=ranks) as store:
        try:
            bundle = store.latest(fallback=fallback)
        except MuxtableError as exc:
            return exc.what
        if bundle is None:
            return None
        rows = bundle.read_rows("table.weight", ranks.rank, ranks.rank + 2)
        np.testing.assert_array_equal(rows, table(bundle.content["at"])[ranks.rank :][:2])
        return bundle.content["at"]


def test_the_ranks_open_the_same_checkpoint_and_share_the_verifying(tmp_path):
    assert run_ranks(2, verify_latest, tmp_path / "c", False) == [None, None]
    run_ranks(3, save_steps, tmp_path / "c", [1, 2])

    assert run_ranks(2, verify_latest, tmp_path / "c", False) == [2, 2]

    files = sorted(path.name for path in (tmp_path / "c" / "step-0000000002").glob("*.safe*"))
    for name in files:
        path = tmp_path / "c" / "step-0000000002" / name
        good = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        told = run_ranks(2, verify_latest, tmp_path / "c", False)
        assert all(name in str(each) for each in told), told
        assert run_ranks(2, verify_latest, tmp_path / "c", True) == [1, 1]
        path.write_bytes(good)
    assert len(files) == 3
    open_bundle(tmp_path / "c" / "step-0000000002").close()


# ---------------------------------------------------------------- other numbers of ranks


def random_state(case: int) -> dict[str, np.ndarray]:
    """Returns weight, optimizer rows of two kinds, of random sizes; few rows in some cases."""
    rng = np.random.default_rng(case)
    rows = int(rng.choice([1, 2, 3, 5, rng.integers(6, 5000)]))
    width = int(rng.integers(1, 40))
    return {
        "table.weight": rng.random((rows, width), dtype=np.float32),
        "table.momentum1": rng.random(rows, dtype=np.float32),
        "table.momentum2": rng.random((rows, width), dtype=np.float32),
    }


CASES = range(8)


def save_cases(ranks, root: Path) -> None:
    for case in CASES:
        sharded = {}
        for name, array in random_state(case).items():
            bounds = shard_bounds(len(array), ranks.world_size)
            first, end = bounds[ranks.rank], bounds[ranks.rank + 1]
            # In memory rows are padded, so what is saved is strided.
            padded = np.zeros((end - first, *(size + 3 for size in array.shape[1:])), np.float32)
            part = padded[:, : array.shape[1]] if array.ndim == 2 else padded
            part[...] = array[first:end]
            sharded[name] = Sharded(array=part, first_row=first, num_rows=len(array))
        with CheckpointStore(root / f"{case}", 1, ranks=ranks) as store:
            store.save(case, sharded, {"tower.bias": np.arange(3.0)}, {}, {"at": case})


def load_cases(ranks, root: Path, saved_by: list[int]) -> int:
    """Reads this rank's rows of what every number of ranks saved; returns how many were equal."""
    num_equal = 0
    for world_size in saved_by:
        for case in CASES:
            with CheckpointStore(root / f"{world_size}" / f"{case}", 1, ranks=ranks) as store:
                found = store.latest()
            for name, array in random_state(case).items():
                bounds = shard_bounds(len(array), ranks.world_size)
                first, end = bounds[ranks.rank], bounds[ranks.rank + 1]
                out = np.full((end - first, *array.shape[1:]), np.nan, np.float32)
                found.read_rows(name, first, end, out)
                num_equal += out.tobytes() == array[first:end].tobytes()
            num_equal += found.tensor("tower.bias").tolist() == [0, 1, 2]
    return num_equal


def test_what_any_number_of_ranks_saved_is_read_bit_for_bit_by_any_other(tmp_path):
    sizes = [1, 2, 3, 4]
    for world_size in sizes:
        run_ranks(world_size, save_cases, tmp_path / f"{world_size}")

    for world_size in sizes:
        told = run_ranks(world_size, load_cases, tmp_path, sizes)
        assert told == [len(sizes) * len(CASES) * 4] * world_size

    # By one process with numpy alone, whoever wrote it, it is the same.
    for case in CASES:
        for name, array in random_state(case).items():
            for world_size in sizes:
                with latest_checkpoint(tmp_path / f"{world_size}" / f"{case}") as checkpoint:
                    assert checkpoint.tensor(name).tobytes() == array.tobytes()
