import errno
import os
import threading

import pytest

from features.errors import SnapshotError
from storage import fsops
from storage.fsops import DISK, Disk, locked, remove_quietly, replace_file, translated, write_all
from tests.storage.faults import CHANGES, READS, FailingDisk


def without_renameat2(source, target):
    raise OSError(errno.EINVAL, "no such flag")


@pytest.mark.parametrize("has_renameat2", [True, False])
@pytest.mark.parametrize("target", ["nothing", "empty directory", "directory", "file", "link"])
def test_a_directory_is_renamed_only_where_nothing_is(tmp_path, monkeypatch, has_renameat2, target):
    if not has_renameat2:
        monkeypatch.setattr(fsops, "_renameat2_noreplace", without_renameat2)
    source, path = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    if target in ("empty directory", "directory"):
        path.mkdir()
    if target == "directory":
        (path / "x").write_bytes(b"")
    if target == "file":
        path.write_bytes(b"")
    if target == "link":
        path.symlink_to("nowhere")

    if target == "nothing":
        DISK.rename_new(source, path)
        assert path.is_dir()
        assert not source.exists()
    else:
        with pytest.raises(FileExistsError):
            DISK.rename_new(source, path)
        assert source.is_dir()


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_of_many_renames_to_one_name_exactly_one_succeeds(tmp_path, monkeypatch, has_renameat2):
    if not has_renameat2:
        monkeypatch.setattr(fsops, "_renameat2_noreplace", without_renameat2)
    results = []

    def rename(i: int) -> None:
        (tmp_path / f"s{i}").mkdir()
        try:
            DISK.rename_new(tmp_path / f"s{i}", tmp_path / "t")
            results.append(True)
        except FileExistsError:
            results.append(False)

    threads = [threading.Thread(target=rename, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == [False] * 15 + [True]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "device failed"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "write permission"),
        (errno.ESTALE, "check the directory"),
    ],
)
def test_errors_of_the_system_name_the_directory_and_a_way_out(tmp_path, code, told):
    with pytest.raises(SnapshotError) as refusal, translated("write a bundle", tmp_path):
        raise OSError(code, os.strerror(code))

    assert str(tmp_path) in refusal.value.what
    assert "cannot write a bundle" in refusal.value.what
    assert told in refusal.value.fix


def test_a_replaced_file_is_the_old_or_the_new_whatever_fails(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    for operation in ("create", "write", "sync", "close", "rename_over"):
        with pytest.raises(OSError, match="Input/output"):
            replace_file(FailingDisk(operation, 0, errno.EIO), path, b"new", tmp_path / ".t")
        assert path.read_bytes() == b"old"
    replace_file(DISK, path, b"new", tmp_path / ".u")

    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_write_that_takes_nothing_is_an_error_and_no_endless_loop():
    class Stuck(Disk):
        def write(self, descriptor, data):
            return 0 * (descriptor + len(data))

    with pytest.raises(OSError, match="no bytes"):
        write_all(Stuck(), 0, memoryview(b"x"))


def test_removing_goes_no_deeper_than_a_bundle(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_bytes(b"")
    (tmp_path / "outside").write_bytes(b"")
    (tmp_path / "b" / "link").symlink_to(tmp_path / "outside")

    assert not remove_quietly(DISK, tmp_path / "a")
    assert remove_quietly(DISK, tmp_path / "b")
    assert remove_quietly(DISK, tmp_path / "nothing")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "outside"]


def test_a_lock_excludes_others_and_says_so(tmp_path):
    path = tmp_path / ".lock"

    with (
        locked(DISK, path, 1),
        pytest.raises(SnapshotError, match="has held"),
        locked(DISK, path, 0.1),
    ):
        pass
    with locked(DISK, path, 0.1):
        pass


def test_a_lock_file_that_was_removed_guards_nothing(tmp_path):
    path = tmp_path / ".lock"
    inside = []

    class Racing(Disk):
        def lock(self, descriptor):
            if not inside:
                path.unlink()
                inside.append(os.fstat(descriptor).st_ino)
            return super().lock(descriptor)

    with locked(Racing(), path, 1):
        assert path.stat().st_nlink == 1


def test_fault_disks_cover_every_call():
    calls = {name for name in vars(Disk) if not name.startswith("_")}

    assert calls == set(CHANGES + READS)
