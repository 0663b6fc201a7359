"""A commit by several ranks, cut at every call: the old checkpoint or the new one, complete."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

from features.errors import MuxtableError, SnapshotError
from storage.chain import open_checkpoint
from storage.fsops import DISK, Disk, replace_file
from storage.pointer import POINTER
from tests.ranks import run_ranks
from tests.storage.faults import leftovers
from tests.storage.lost_writes import RecordingDisk, bad_states, materialize
from tests.trainer.dying import DyingDisk, run_dying
from tests.trainer.test_deltas import Shard, check, train
from trainer.checkpoint import CheckpointStore, latest_checkpoint
from trainer.deltas import Deltas
from trainer.latest import NAME, look_at

COUNT = 60


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A whole checkpoint of step 1 and a delta of step 2, by two ranks."""
    directory = tmp_path_factory.mktemp("first") / "c"
    run_ranks(2, train, directory, 9, [1, 2], COUNT)
    return directory


def save_third(ranks, directory: Path, disks: dict[int, int], limit: int, is_broken: bool = False):
    """Goes on to step 3, each rank on a disk that ends it ahead of a change of a number."""
    if is_broken:
        break_pointers()
    disk = DyingDisk(disks.get(ranks.rank))
    shard = Shard(ranks)
    try:
        with CheckpointStore(directory, 2, ranks=ranks, threads=1, disk=disk) as store:
            store.deltas = Deltas(limit, shard.first, shard.end - shard.first)
            found = store.latest()
            found.read_rows("table.weight", shard.first, shard.end, shard.weight)
            found.read_rows("table.momentum1", shard.first, shard.end, shard.momentum)
            store.deltas.resume(found)
            shard.move(3, COUNT, store.deltas.touched.mark)
            store.save(3, shard.sharded(), {}, {}, {"at": 3})
    except MuxtableError as exc:
        return str(exc), len(disk.changes)
    return "saved", len(disk.changes)


def break_pointers() -> None:
    """Makes this process replace pointers in two steps."""
    import storage.documents

    def in_two_steps(disk: Disk, path: Path, data: bytes, temporary: Path) -> None:
        if path.name == POINTER:
            disk.remove_file(path)
        replace_file(disk, path, data, temporary)

    storage.documents.replace_file = in_two_steps


def state(directory: Path) -> int:
    """Returns the step in force, equal to what was saved."""
    with latest_checkpoint(directory) as checkpoint:
        step = checkpoint.content["at"]
    check(directory, step, COUNT)
    return step


def die(first: Path, scratch: Path, rank: int, at: int, limit: int) -> tuple[int, list]:
    """Returns the step in force after a rank died, and what each said; the run then goes on."""
    directory = scratch / "c"
    shutil.copytree(first, directory)
    told = run_dying(2, save_third, directory, {rank: at}, limit)
    found = state(directory)
    assert found in (2, 3), (rank, at, told)
    assert told[rank] == "died", (rank, at, told)
    assert told[1 - rank][0] != "saved" or found == 3, (rank, at, told)
    with CheckpointStore(directory, 2):
        assert leftovers(directory) == [], (rank, at)
        assert state(directory) == found
    shutil.rmtree(directory)
    return found, told


def die_at_many(first: Path, scratch: Path, limit: int, stride: int) -> None:
    directory = scratch / "count"
    shutil.copytree(first, directory)
    counts = [changes for _, changes in run_ranks(2, save_third, directory, {}, limit)]
    assert state(directory) == 3
    seen: dict[int, list[int]] = {0: [], 1: []}
    for rank in (0, 1):
        for at in sorted({*range(0, counts[rank], stride), counts[rank] - 1}):
            seen[rank].append(die(first, scratch, rank, at, limit)[0])
    assert counts[0] > 30
    assert counts[1] >= 3
    # Rank 1 alone can stop a commit, not half of it.
    assert set(seen[1]) == {2}
    assert seen[0] == sorted(seen[0])
    assert set(seen[0]) == {2, 3}


def test_a_rank_that_dies_at_some_calls_leaves_the_old_or_the_new_checkpoint(first, tmp_path):
    die_at_many(first, tmp_path, 9, 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("limit", [1, 9], ids=["whole", "delta"])
def test_a_rank_that_dies_at_any_call_leaves_the_old_or_the_new_checkpoint(first, tmp_path, limit):
    die_at_many(first, tmp_path, limit, 1)


def test_a_pointer_replaced_in_two_steps_would_be_found_out(first, tmp_path):
    directory = tmp_path / "count"
    shutil.copytree(first, directory)
    (_, changes), _ = run_ranks(2, save_third, directory, {}, 9, True)
    found = set()

    # Among the last changes is the pointer's.
    for at in range(changes - 12, changes):
        path = tmp_path / f"{at}"
        shutil.copytree(first, path)
        run_dying(2, save_third, path, {0: at}, 9, True)
        try:
            found.add(state(path))
        except SnapshotError as exc:
            found.add(exc.what)
            break

    assert found - {2, 3}


# ---------------------------------------------------------------- writes that are lost


def save_recorded(ranks, directory: Path, limit: int) -> tuple[list, int, int]:
    """Saves steps 1 and 2; returns this rank's changes and where in them each save had returned."""
    disk = RecordingDisk()
    shard = Shard(ranks, 40)
    returned = []
    with CheckpointStore(directory, 2, ranks=ranks, threads=1, disk=disk) as store:
        store.deltas = Deltas(limit, shard.first, shard.end - shard.first)
        for step in (1, 2):
            shard.move(step, 4, store.deltas.touched.mark)
            store.save(step, shard.sharded(), {}, {}, {"at": step})
            returned.append(len(disk.trace))
    return disk.trace, *returned


def merged(traces: list[tuple[list, int, int]]) -> tuple[list, list[int]]:
    """Returns one trace: the others write after rank 0 made the draft, and before its manifest."""
    (ours, *ends), (theirs, *_) = traces
    drafts = {path.parent for kind, (path, *_) in theirs if kind == "create"}
    trace, returned = [], []
    for i, change in enumerate(ours):
        kind, (path, *_) = change
        if kind == "create" and path.name == "manifest.json":
            assert path.parent in drafts
            trace += [other for other in theirs if other[1][0].parent == path.parent]
        trace.append(change)
        if i + 1 in ends:
            returned.append(len(trace))
    return trace, returned


@functools.cache
def small(step: int) -> np.ndarray:
    from sharding.ranks import Ranks

    shard = Shard(Ranks.alone(), 40)
    for each in range(1, step + 1):
        shard.move(each, 4, lambda _rows: None)
    return shard.weight


def look(files: dict, scratch: Path) -> object:
    """Returns the step in force in such a state, or what is wrong with it."""
    materialize(files, scratch)
    try:
        directory = scratch / "c"
        checkpoint = latest_checkpoint(directory)
        for path in directory.iterdir() if directory.exists() else []:
            if NAME.fullmatch(path.name) and look_at(path, DISK) is None:
                return f"{path.name} is not complete"
        if checkpoint is None:
            return None
        step = checkpoint.content["at"]
        if not np.array_equal(checkpoint.tensor("table.weight"), small(step)):
            return "other rows"
    except SnapshotError as exc:
        return exc.what
    finally:
        shutil.rmtree(scratch)
    return step


@pytest.mark.parametrize("limit", [0, 9], ids=["whole", "delta"])
def test_a_power_cut_leaves_the_old_or_the_new_checkpoint_and_needs_every_sync(tmp_path, limit):
    root = tmp_path / "root"
    root.mkdir()
    trace, returned = merged(run_ranks(2, save_recorded, root / "c", limit))
    known: dict = {}
    looking = functools.partial(look, scratch=tmp_path / "scratch")

    assert list(bad_states(trace, returned, root, looking, known)) == []
    assert set(known.values()) == {None, 1, 2}

    # The negative control: without any one sync of the second save some state is bad.
    syncs = [i for i in range(*returned) if trace[i][0] in ("sync", "sync_directory")]
    harmless = []
    for i in syncs:
        shorter = trace[:i] + trace[i + 1 :]
        moved = [at - (at > i) for at in returned]
        if next(bad_states(shorter, moved, root, looking, known), None) is None:
            harmless.append(trace[i])
    assert len(syncs) >= 7
    assert sum(Path(trace[i][1][0]).name.startswith("r0001-") for i in syncs) >= 1
    assert harmless == []


# ---------------------------------------------------------------- flipped bits


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at // 8] ^= 1 << at % 8
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_thousand_flipped_bits_of_a_delta_and_its_base_are_all_refused_by_name(first):
    rng = np.random.default_rng(0)
    names = ("step-0000000001", "step-0000000002")
    files = sorted(path for name in names for path in (first / name).iterdir())
    unseen = 0

    for i in range(1000):
        path = files[i % len(files)]
        at = int(rng.integers(path.stat().st_size * 8))
        flip(path, at)
        with pytest.raises(SnapshotError) as refusal:
            latest_checkpoint(first)
        assert str(path) in refusal.value.what, (path, at)
        # The negative control: without verifying, most are not seen.
        try:
            open_checkpoint(first / names[1], verify=False)
        except SnapshotError:
            pass
        else:
            unseen += 1
        flip(path, at)

    assert state(first) == 2
    assert {path.name[:5] for path in files} == {"00000", "r0001", "manif"}
    assert unseen > 300
