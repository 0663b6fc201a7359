import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.errors import SnapshotError
from storage.attempts import LEASE, RECORD, Attempt
from storage.names import temporary_path
from tests.storage.faults import leftovers

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from storage.attempts import Attempt
from storage.names import temporary_path
directory = Path(sys.argv[1])
attempt = Attempt(directory, "other")
temporary_path(directory, "step-1", "other").mkdir()
print("started", flush=True)
time.sleep(60)
"""


def other_process(directory: Path) -> subprocess.Popen:
    """Starts a process whose attempt "other" has begun something in the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout.readline() == b"started\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_an_older_attempt_may_not_commit_after_a_newer_started(tmp_path):
    older = Attempt(tmp_path / "c", "older")
    with older.held():
        pass
    newer = Attempt(tmp_path / "c", "newer")

    told = r'"older" may no longer.*"newer" has taken it over'
    with pytest.raises(SnapshotError, match=told), older.held():
        raise AssertionError
    with newer.held():
        pass

    assert (older.number, newer.number) == (1, 2)
    assert older.lineage == newer.lineage
    newer.close()
    older.close()


def test_a_token_runs_once_at_a_time_and_may_come_back(tmp_path):
    with Attempt(tmp_path, "a"), pytest.raises(SnapshotError, match=rf"process {os.getpid()}"):
        Attempt(tmp_path, "a")

    with Attempt(tmp_path, "a") as again:
        assert again.number == 2


def test_what_a_live_process_is_writing_stays_and_goes_when_it_is_dead(tmp_path):
    process = other_process(tmp_path)
    try:
        Attempt(tmp_path, "a").close()
        assert len(leftovers(tmp_path)) == 1
    finally:
        end(process)

    Attempt(tmp_path, "b").close()

    assert leftovers(tmp_path) == []
    assert not list(tmp_path.glob(f"{LEASE}*"))


def test_a_stopped_process_keeps_its_lease(tmp_path):
    process = other_process(tmp_path)
    try:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        Attempt(tmp_path, "a").close()
        assert len(leftovers(tmp_path)) == 1
    finally:
        end(process)


def test_only_what_an_attempt_left_is_swept(tmp_path):
    foreign = [".x.tmp", ".step-1.A.01234567.tmp", "step-1.a.01234567.tmp", ".hidden", "notes"]
    for name in foreign:
        (tmp_path / name).mkdir()
    deep = temporary_path(tmp_path, "step-2", "dead")
    (deep / "somebody's").mkdir(parents=True)
    dead = temporary_path(tmp_path, "step-3", "dead")
    dead.mkdir()
    (dead / "file").write_bytes(b"")

    Attempt(tmp_path, "a").close()

    names = {path.name for path in tmp_path.iterdir()}
    assert {*foreign, deep.name} <= names
    assert dead.name not in names


def test_a_damaged_record_is_refused_naming_it_and_leaves_no_lease(tmp_path):
    Attempt(tmp_path, "a").close()
    path = tmp_path / RECORD
    path.chmod(0o644)
    good = path.read_bytes()

    for data in (b"", good[:-5], good.replace(b'"number":1', b'"number":2'), b"{}"):
        path.write_bytes(data)
        with pytest.raises(SnapshotError, match=RECORD):
            Attempt(tmp_path, "b")

    assert not list(tmp_path.glob(f"{LEASE}*"))


def test_an_attempt_whose_directory_was_removed_may_not_commit(tmp_path):
    attempt = Attempt(tmp_path / "c", "a")
    for path in (tmp_path / "c").iterdir():
        path.unlink()

    with pytest.raises(SnapshotError, match="somebody has taken it over"), attempt.held():
        raise AssertionError

    (tmp_path / "c" / ".lock").unlink()
    (tmp_path / "c").rmdir()
    with pytest.raises(SnapshotError, match="take the lock"), attempt.held():
        raise AssertionError
    attempt.close()


@pytest.mark.parametrize("token", ["", "a/b", "A", "a.b", "x" * 65])
def test_a_token_that_is_no_name_is_refused(tmp_path, token):
    if token == "":
        assert len(Attempt(tmp_path, token).token) == 16
        return

    with pytest.raises(SnapshotError, match="attempt"):
        Attempt(tmp_path, token)
