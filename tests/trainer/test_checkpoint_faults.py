"""What stopped processes, failing disks and lost writes leave: the old or the new checkpoint."""

import errno
import functools
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError
from storage.bundle import open_bundle
from storage.fsops import DISK, Disk, replace_file
from storage.pointer import POINTER
from tests.storage.faults import (
    CHANGES,
    Crash,
    CrashingDisk,
    FailingDisk,
    WatchedDisk,
    leftovers,
)
from tests.storage.lost_writes import RecordingDisk, bad_states, materialize
from tests.trainer.checkpoints import RACER, run, save, state, steps
from trainer.checkpoint import CheckpointStore
from trainer.latest import look_at

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
