"""Every test of stopped or failed saves uses the same two checkpoints: step 1, then step 2."""

import errno
import functools
import hashlib
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError
from storage.bundle import open_bundle
from storage.fsops import DISK, Disk, replace_file
from storage.pointer import POINTER, read_pointer, write_pointer
from storage.writer import BundleWriter
from tests.storage.faults import (
    CHANGES,
    Crash,
    CrashingDisk,
    FailingDisk,
    FullDisk,
    HookedDisk,
    SlowDisk,
    WatchedDisk,
    leftovers,
)
from tests.storage.lost_writes import RecordingDisk, bad_states, materialize
from trainer.checkpoint import CheckpointStore, latest_checkpoint
from trainer.latest import NAME, look_at

ROOT = Path(__file__).resolve().parents[2]


def tensors(step: int, rows: int = 100) -> dict[str, np.ndarray]:
    return {"weight": np.full((rows, 3), step, np.float32), "step": np.array(step)}


def save(store: CheckpointStore, step: int, best: bool = False, rows: int = 100):
    return store.save(step, {}, tensors(step, rows), {"p.json": b"{}"}, {"at": step}, best)


def state(directory: Path) -> int | None:
    """Returns the step of the checkpoint in force, verified and equal to what was saved."""
    bundle = latest_checkpoint(directory)
    if bundle is None:
        return None
    with bundle:
        step = bundle.content["at"]
        expected = tensors(step, bundle.entry("weight").num_rows)
        for name in ("weight", "step"):
            np.testing.assert_array_equal(bundle.tensor(name), expected[name])
        assert bundle.file("p.json") == b"{}"
    return step


def steps(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if NAME.fullmatch(path.name))


@pytest.fixture
def directory(tmp_path) -> Path:
    """A run with the checkpoint of step 1."""
    path = tmp_path / "run" / "checkpoints"
    with CheckpointStore(path, 1) as store:
        save(store, 1)
    return path


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


RACER = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from features.errors import SnapshotError
from tests.trainer.test_checkpoint import save
from trainer.checkpoint import CheckpointStore
print("begin", flush=True)
try:
    with CheckpointStore(Path(sys.argv[1]), 10_000) as store:
        latest = store.latest()
        step = latest.content["at"] if latest else 0
        while True:
            step += 1
            save(store, step)
            print(step, flush=True)
except SnapshotError as exc:
    print(exc.what, flush=True)
    sys.exit(1)
"""


def run(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


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
from tests.trainer.test_checkpoint import tensors
from trainer.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), 9, copy_budget=2**26, disk=SlowDisk())
store.save_async(2, {}, tensors(2, 500_000), {"p.json": b"{}"}, {"at": 2})
print("asked")
"""

    process = run(script, directory)
    output, _ = process.communicate(timeout=30)

    assert (process.returncode, output) == (0, "asked\n")
    assert state(directory) == 2


# ---------------------------------------------------------------- stopped at every call


def copied(directory: Path, target: Path) -> Path:
    shutil.copytree(directory, target)
    return target


def count_calls(directory: Path) -> int:
    disk = WatchedDisk()
    with CheckpointStore(directory, 1, threads=1, disk=disk) as store:
        save(store, 2)
        return len(disk.calls)


def test_a_process_that_stops_at_any_call_leaves_the_old_or_the_new_checkpoint(tmp_path, directory):
    num_calls = count_calls(copied(directory, tmp_path / "count"))
    seen = []

    for at in range(num_calls):
        path = copied(directory, tmp_path / f"{at}")
        disk = CrashingDisk(at)
        with pytest.raises(Crash):
            save(CheckpointStore(path, 1, threads=1, disk=disk), 2)
        disk.die()
        seen.append(state(path))
        assert seen[-1] in (1, 2), at

        with CheckpointStore(path, 1, threads=1) as store:
            assert state(path) == seen[-1]
            assert leftovers(path) == [], at
            save(store, 3)
        assert state(path) == 3
        shutil.rmtree(path)

    assert num_calls > 60
    assert seen == sorted(seen)
    assert {1, 2} == set(seen)


def test_a_first_save_that_stops_at_any_call_leaves_nothing_or_the_checkpoint(tmp_path):
    disk = WatchedDisk()
    with CheckpointStore(tmp_path / "count", 1, threads=1, disk=disk) as store:
        save(store, 1)
        num_calls = len(disk.calls)
    seen = []

    for at in range(num_calls):
        path = tmp_path / f"{at}"
        for _ in range(2):  # stopped twice: the second finds what the first left
            disk = CrashingDisk(at)
            with pytest.raises(Crash):
                save(CheckpointStore(path, 1, threads=1, disk=disk), 1)
            disk.die()
        seen.append(state(path))
        with CheckpointStore(path, 1, threads=1) as store:
            save(store, 2)
        assert state(path) == 2
        assert leftovers(path) == []

    assert seen[0] is None
    assert seen[-1] == 1


def refusal(call: Callable, *arguments: object) -> str | None:
    """Returns what a SnapshotError says, None where there is none."""
    try:
        call(*arguments)
    except SnapshotError as exc:
        return exc.what
    return None


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_an_error_of_any_call_leaves_the_old_or_the_new_checkpoint(tmp_path, directory, code):
    probe = WatchedDisk()
    with CheckpointStore(copied(directory, tmp_path / "count"), 1, threads=1, disk=probe) as store:
        save(store, 2)
    outcomes = set()
    stores: list[CheckpointStore] = []

    def start(path: Path, disk: Disk) -> None:
        stores.append(CheckpointStore(path, 1, threads=1, disk=disk))

    for operation in CHANGES:
        for at in range(probe.calls.count(operation)):
            path = copied(directory, tmp_path / "try")
            where = f"{operation} {at}"
            told = refusal(start, path, FailingDisk(operation, at, code))
            if told is not None:
                outcomes.add("not started")
                assert state(path) == 1, where
            else:
                store = stores.pop()
                told = refusal(save, store, 2)
                outcomes.add("saved" if told is None else "refused")
                assert state(path) in ((2,) if told is None else (1, 2)), where
                # The same store goes on once the disk does.
                save(store, 3)
                assert state(path) == 3, where
                store.close()
            assert told is None or str(path) in told, where
            with CheckpointStore(path, 1):
                assert leftovers(path) == [], where
            shutil.rmtree(path)

    assert outcomes == {"saved", "refused", "not started"}


def test_a_pointer_that_is_not_replaced_in_one_step_would_be_found_out(
    tmp_path, directory, monkeypatch
):
    def replace_in_two_steps(disk: Disk, path: Path, data: bytes, temporary: Path) -> None:
        if path.name == POINTER:
            disk.remove_file(path)
        replace_file(disk, path, data, temporary)

    monkeypatch.setattr("storage.documents.replace_file", replace_in_two_steps)
    num_calls = count_calls(copied(directory, tmp_path / "count"))
    found = set()

    for at in range(num_calls):
        path = copied(directory, tmp_path / f"{at}")
        disk = CrashingDisk(at)
        with pytest.raises(Crash):
            save(CheckpointStore(path, 1, threads=1, disk=disk), 2)
        disk.die()
        found.add(refusal(state, path) or state(path))

    assert found - {1, 2}


def test_a_failed_save_leaves_no_bytes_behind(directory):
    before = sorted(directory.iterdir())
    probe = WatchedDisk()
    with CheckpointStore(directory, 1, threads=1, disk=probe):
        at = probe.calls.count("sync")  # the first of the save, after those of the start

    disk = FailingDisk("sync", at, errno.EIO)
    with CheckpointStore(directory, 1, threads=1, disk=disk) as store:
        told = refusal(save, store, 2)

    assert told is not None
    assert "nput/output error" in told
    assert sorted(directory.iterdir()) == before


# ---------------------------------------------------------------- real full and read-only disks


@pytest.fixture
def tmpfs(tmp_path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def used(path: Path) -> int:
    usage = os.statvfs(path)
    return usage.f_blocks - usage.f_bfree


def test_a_full_disk_is_told_and_leaves_the_checkpoint_and_no_byte_more(tmpfs):
    with CheckpointStore(tmpfs / "c", 1) as store:
        save(store, 1)
        before = used(tmpfs)

        for _ in range(3):
            with pytest.raises(SnapshotError) as refusal:
                save(store, 2, rows=300_000)
            assert str(tmpfs / "c") in refusal.value.what
            assert "free space" in refusal.value.fix
            assert used(tmpfs) == before
            assert state(tmpfs / "c") == 1
        save(store, 2)

    assert state(tmpfs / "c") == 2


def test_a_read_only_disk_is_told_and_still_read(tmpfs):
    with CheckpointStore(tmpfs / "c", 1) as store:
        save(store, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)

    with pytest.raises(SnapshotError, match="read-only"):
        CheckpointStore(tmpfs / "c", 1)

    assert state(tmpfs / "c") == 1


def test_a_limit_on_file_sizes_is_told(directory):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointStore(directory, 1) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
        try:
            with pytest.raises(SnapshotError, match=r"ulimit -f"):
                save(store, 2, rows=300_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert state(directory) == 1
    assert leftovers(directory) == []


def test_a_directory_without_permission_is_told(directory):
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, ".")
from features.errors import SnapshotError
from trainer.checkpoint import CheckpointStore
if os.getuid() == 0:
    os.setuid(65534)
try:
    CheckpointStore(Path(sys.argv[1]), 1)
except SnapshotError as exc:
    print(exc)
"""
    for path in (directory, *directory.parents[:3]):
        path.chmod(0o755)
    directory.chmod(0o555)

    process = run(script, directory)
    output, _ = process.communicate(timeout=30)
    directory.chmod(0o755)

    assert "ermission denied" in output
    assert state(directory) == 1


# ---------------------------------------------------------------- writes that are lost


def recorded(root: Path) -> tuple[list, list[int]]:
    """Returns the changes of two saves, and where in them each save had returned."""
    disk = RecordingDisk()
    returned = []
    with CheckpointStore(root / "c", 1, threads=1, disk=disk) as store:
        for step in (1, 2):
            save(store, step)
            returned.append(len(disk.trace))
    return disk.trace, returned


def look(files: dict, scratch: Path) -> object:
    """Returns the step in force in such a state, or what is wrong with it."""
    materialize(files, scratch)
    try:
        directory = scratch / "c"
        found = state(directory)
        for name in steps(directory) if directory.exists() else []:
            if look_at(directory / name, DISK) is None:
                return f"{name} is not complete"
    except SnapshotError as exc:
        return exc.what
    finally:
        shutil.rmtree(scratch)
    return found


def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    trace, returned = recorded(root)

    known: dict = {}
    looking = functools.partial(look, scratch=tmp_path / "scratch")
    bad = list(bad_states(trace, returned, root, looking, known))

    assert bad == []
    assert len(known) > 100
    assert set(known.values()) == {None, 1, 2}


def test_without_any_one_sync_a_power_cut_is_harmful(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    trace, returned = recorded(root)
    syncs = [i for i in range(*returned) if trace[i][0] in ("sync", "sync_directory")]

    harmless = []
    known: dict = {}
    looking = functools.partial(look, scratch=tmp_path / "scratch")
    for i in syncs:
        shorter = trace[:i] + trace[i + 1 :]
        moved = [at - (at > i) for at in returned]
        if next(bad_states(shorter, moved, root, looking, known), None) is None:
            harmless.append(trace[i])

    assert len(syncs) >= 7
    assert harmless == []


# ---------------------------------------------------------------- kill -9


def kills(count: int, directory: Path) -> None:
    """Kills a process that saves without end, at a random moment, again and again."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    last = 0
    for i in range(count):
        process = run(RACER, directory)
        assert process.stdout.readline() == "begin\n"
        time.sleep(rng.uniform(0.01, 0.3))
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        told = int(printed[-1]) if printed else last
        found = state(directory) or 0
        # What was told is durable; the one after it may be there too.
        assert found in (told, told + 1), f"seed {seed}, kill {i}"
        assert last <= found
        last = found
    CheckpointStore(directory, 9).close()
    assert leftovers(directory) == []


def test_kills_at_random_moments_lose_no_save_that_had_returned(tmp_path):
    kills(6, tmp_path / "c")


@pytest.mark.slow
def test_many_kills_at_random_moments_lose_no_save_that_had_returned(tmp_path):
    kills(int(os.environ.get("MUXTABLE_KILLS", "30")), tmp_path / "c")


@pytest.mark.slow
def test_opening_and_verifying_takes_little_more_than_the_sha256_of_the_same_bytes(tmp_path):
    table = np.random.default_rng(0).random((2**22, 16), dtype=np.float32)
    with CheckpointStore(tmp_path / "c", 1) as store:
        path = tmp_path / "c" / store.save(1, {}, {"weight": table}, {}, {}).name

    def sha256() -> float:
        began = time.perf_counter()
        for file in sorted(path.iterdir()):
            with file.open("rb") as opened:
                hashlib.file_digest(opened, "sha256")
        return time.perf_counter() - began

    def verify() -> float:
        began = time.perf_counter()
        open_bundle(path, threads=1).close()
        return time.perf_counter() - began

    pairs = [(sha256(), verify()) for _ in range(9)]
    ratio = float(np.median([b for _, b in pairs]) / np.median([a for a, _ in pairs]))

    assert ratio < 1.2
