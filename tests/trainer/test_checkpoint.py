"""Checkpoints of one process: saved, found, pruned, fallen back to, contested, asynchronous."""

import logging
import shutil
from pathlib import Path

import pytest

from features.errors import SnapshotError
from storage.bundle import open_bundle
from storage.pointer import POINTER, read_pointer, write_pointer
from storage.writer import BundleWriter
from tests.storage.faults import (
    FullDisk,
    HookedDisk,
    SlowDisk,
    leftovers,
)
from tests.trainer.checkpoints import RACER, run, save, state, steps, tensors
from trainer.checkpoint import CheckpointStore, latest_checkpoint

# ---------------------------------------------------------------- saving, finding, pruning


def test_a_save_is_found_again_with_everything_in_it(directory):
    bundle = latest_checkpoint(directory)

    assert state(directory) == 1
    record = bundle.content["checkpoint"]
    assert (record["name"], record["step"], record["best"]) == ("step-0000000001", 1, False)
    assert read_pointer(directory).digest == bundle.digest


def test_before_the_first_save_there_is_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None

    with CheckpointStore(tmp_path / "c", 1) as store:
        assert store.latest() is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    with CheckpointStore(tmp_path / "c", 2) as store:
        for step in range(1, 8):
            save(store, step, best=step in (1, 3))

    assert steps(tmp_path / "c") == ["step-0000000003", "step-0000000006", "step-0000000007"]
    assert leftovers(tmp_path / "c") == []


def test_a_name_that_exists_gets_a_suffix_and_nothing_is_overwritten(directory):
    (directory / "step-0000000002").mkdir()
    with CheckpointStore(directory, 9) as store:
        names = [save(store, step).name for step in (1, 1, 2, 0)]

    assert names == [f"step-000000000{end}" for end in ("1-2", "1-3", "2-2", "0")]
    assert state(directory) == 0
    assert list((directory / "step-0000000002").iterdir()) == []


def test_only_complete_checkpoints_of_this_lineage_are_removed(tmp_path, directory):
    shutil.copytree(directory / "step-0000000001", directory / "step-0000000001-7")
    with CheckpointStore(tmp_path / "elsewhere", 9) as other:
        for step in (2, 3):
            save(other, step)
    shutil.copytree(tmp_path / "elsewhere" / "step-0000000002", directory / "step-0000000002")
    shutil.copytree(tmp_path / "elsewhere" / "step-0000000003", directory / "step-0000000003")
    (directory / "step-0000000003" / "p.json").unlink()
    (directory / "step-0000000099").mkdir()
    (directory / "notes.txt").write_bytes(b"mine")

    with CheckpointStore(directory, 1) as store:
        for step in (10, 11, 12):
            save(store, step)

    assert steps(directory) == [
        "step-0000000001-7",
        "step-0000000002",
        "step-0000000003",
        "step-0000000012",
        "step-0000000099",
    ]
    assert (directory / "notes.txt").read_bytes() == b"mine"
    assert state(directory) == 12


def test_checkpoints_of_one_run_name_the_one_before(tmp_path):
    digests = []
    for _ in range(2):
        with CheckpointStore(tmp_path / "c", 9) as store:
            digests += [save(store, len(digests) + i).digest for i in (0, 1)]

    bundles = [open_bundle(tmp_path / "c" / name) for name in steps(tmp_path / "c")]
    assert [bundle.manifest.parent for bundle in bundles] == [None, *digests[:-1]]
    assert read_pointer(tmp_path / "c").counter == 4


def test_a_key_that_is_taken_is_refused(directory):
    with (
        CheckpointStore(directory, 1) as store,
        pytest.raises(SnapshotError, match='"checkpoint"'),
    ):
        store.save(2, {}, {}, {}, {"checkpoint": 1})

    assert state(directory) == 1


# ---------------------------------------------------------------- damage and falling back


def damage(path: Path) -> None:
    file = next(path.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_refused_and_another_is_taken_only_if_allowed(tmp_path, caplog):
    directory = tmp_path / "c"
    with CheckpointStore(directory, 9) as store:
        for step in (1, 2, 3):
            save(store, step)
    damage(directory / "step-0000000003")
    damage(directory / "step-0000000002")

    with pytest.raises(SnapshotError, match="step-0000000003/00000-small"):
        latest_checkpoint(directory)
    with caplog.at_level(logging.WARNING):
        bundle = latest_checkpoint(directory, fallback=True)

    assert bundle.content["at"] == 1
    assert "falling back to" in caplog.text
    assert "step-0000000001" in caplog.text
    (directory / "step-0000000001" / "p.json").unlink()
    with pytest.raises(SnapshotError, match="step-0000000003/00000-small"):
        latest_checkpoint(directory, fallback=True)


def test_a_lost_or_damaged_pointer_is_an_error_and_no_fresh_start(tmp_path):
    directory = tmp_path / "c"
    with CheckpointStore(directory, 9) as store:
        for step in (1, 2):
            save(store, step)
    good = (directory / POINTER).read_bytes()
    (directory / POINTER).unlink()

    with pytest.raises(SnapshotError, match=r"CURRENT.*missing, but checkpoints are there"):
        latest_checkpoint(directory)
    assert latest_checkpoint(directory, fallback=True).content["at"] == 2

    (directory / POINTER).write_bytes(good.replace(b"step", b"stop"))
    with pytest.raises(SnapshotError, match="CURRENT"):
        latest_checkpoint(directory)
    assert latest_checkpoint(directory, fallback=True).content["at"] == 2


def test_a_run_goes_on_from_the_checkpoint_it_fell_back_to(tmp_path):
    directory = tmp_path / "c"
    with CheckpointStore(directory, 9) as store:
        for step in (1, 2):
            save(store, step)
    damage(directory / "step-0000000002")

    with CheckpointStore(directory, 9) as store:
        old = store.latest(fallback=True)
        name = save(store, 2).name

    new = latest_checkpoint(directory)
    assert new.path.name == name == "step-0000000002-2"
    assert new.manifest.parent == old.digest
    assert read_pointer(directory).counter == 3


def test_a_snapshot_in_the_place_of_a_checkpoint_is_refused(tmp_path):
    with BundleWriter(tmp_path, "step-0000000001", "snapshot", "a") as writer:
        digest = writer.commit({})
    write_pointer(tmp_path, "step-0000000001", digest, 1)

    with pytest.raises(SnapshotError, match="no checkpoint of a training run"):
        latest_checkpoint(tmp_path)


def test_a_reader_follows_a_run_that_removes_what_the_pointer_named(directory):
    with CheckpointStore(directory, 1) as store:
        moving = HookedDisk("open_directory", lambda: save(store, 2))

        bundle = latest_checkpoint(directory, disk=moving)

    assert bundle.content["at"] == 2
    assert moving.is_done


# ---------------------------------------------------------------- two attempts


def test_an_older_store_can_not_commit_once_a_newer_started(directory):
    older = CheckpointStore(directory, 9, "older")
    newer = CheckpointStore(directory, 9, "newer")

    with pytest.raises(SnapshotError, match=r'"older".*"newer" has taken it over'):
        save(older, 2)
    assert state(directory) == 1
    save(newer, 2)

    assert state(directory) == 2
    assert leftovers(directory) == []
    newer.close()
    older.close()


def test_a_newer_store_may_start_at_the_last_moment_before_a_commit(directory):
    stores = []
    sealed = HookedDisk("sync_directory", lambda: stores.append(CheckpointStore(directory, 9)))
    sealed.is_done = True  # until the older one has started
    older = CheckpointStore(directory, 9, "older", disk=sealed)
    sealed.is_done = False

    with pytest.raises(SnapshotError, match='"older" may no longer'):
        save(older, 2)

    assert sealed.is_done
    assert state(directory) == 1
    assert leftovers(directory) == []
    for store in (*stores, older):
        store.close()


def test_processes_that_overlap_leave_one_line_of_checkpoints(tmp_path):
    directory = tmp_path / "c"

    racers = []
    for _ in range(4):
        racers.append(run(RACER, directory))
        for _ in range(3):
            racers[-1].stdout.readline()
    *losers, winner = racers
    endings = [loser.communicate(timeout=30)[0].splitlines()[-1] for loser in losers]
    winner.kill()
    winner.communicate()

    assert [loser.returncode for loser in losers] == [1, 1, 1]
    assert all("has taken it over" in ending for ending in endings)
    bundles = {b.digest: b for b in (open_bundle(directory / name) for name in steps(directory))}
    digest = read_pointer(directory).digest
    chain = []
    while digest is not None:
        chain.append(bundles[digest].content["at"])
        digest = bundles[digest].manifest.parent
    # One more than the chain: the winner may be killed between its rename and its pointer.
    assert chain == list(range(len(chain), 0, -1))
    assert len(bundles) - len(chain) in (0, 1)


# ---------------------------------------------------------------- saves in the background


def test_a_save_in_the_background_holds_what_was_there_when_it_was_asked_for(directory):
    arrays = tensors(2, rows=400_000)
    with CheckpointStore(directory, 9, copy_budget=2**24, disk=SlowDisk()) as store:
        stall_s = store.save_async(2, {}, arrays, {"p.json": b"{}"}, {"at": 2})
        before = state(directory)
        for array in arrays.values():
            array[...] = -1
        saved = store.wait()

    assert before == 1
    assert state(directory) == 2
    assert saved.stall_s == pytest.approx(stall_s)
    assert saved.stall_s < saved.total_s
    assert saved.size_bytes > arrays["weight"].nbytes


def test_what_is_above_the_copy_budget_is_written_before_the_call_returns(directory):
    arrays = tensors(2, rows=400_000)
    with CheckpointStore(directory, 9, copy_budget=2**20, disk=SlowDisk()) as store:
        stall_s = store.save_async(2, {}, arrays, {"p.json": b"{}"}, {"at": 2})
        for array in arrays.values():
            array[...] = -1
        store.wait()

    assert stall_s > 0.1  # the time that the sync of a file takes on this disk
    assert state(directory) == 2


def test_a_save_that_fails_in_the_background_is_told_by_the_next_call(directory):
    disk = FullDisk()
    disk.is_full = False
    with CheckpointStore(directory, 9, copy_budget=2**24, disk=disk) as store:
        for ask in (
            lambda: save(store, 3),
            store.wait,
            lambda: store.save_async(3, {}, {}, {}, {}),
        ):
            disk.is_full = True
            store.save_async(2, {}, tensors(2), {"p.json": b"{}"}, {"at": 2})
            with pytest.raises(SnapshotError, match=r"the last save failed.*no space left"):
                ask()
            disk.is_full = False
        assert leftovers(directory) == []
        save(store, 4)
        disk.is_full = True
        store.save_async(5, {}, tensors(5), {}, {})
        with pytest.raises(SnapshotError, match="no space left"):
            store.close()

    assert state(directory) == 4


def test_a_second_save_in_the_background_waits_for_the_first(directory):
    with CheckpointStore(directory, 9, copy_budget=2**24, disk=SlowDisk()) as store:
        for step in (2, 3, 4):
            store.save_async(step, {}, tensors(step), {"p.json": b"{}"}, {"at": step})
        assert state(directory) == 3

    assert state(directory) == 4


def test_a_save_that_nobody_waits_for_is_committed_before_the_process_ends(directory):
    script = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from tests.storage.faults import SlowDisk
from tests.trainer.checkpoints import tensors
from trainer.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), 9, copy_budget=2**26, disk=SlowDisk())
store.save_async(2, {}, tensors(2, 500_000), {"p.json": b"{}"}, {"at": 2})
print("asked")
"""

    process = run(script, directory)
    output, _ = process.communicate(timeout=30)

    assert (process.returncode, output) == (0, "asked\n")
    assert state(directory) == 2
