"""Every call that touches the disk, in one object, so that tests can record, cut and break them.

The rule of a commit (who writes what in which order is in `storage.writer` and `storage.pointer`):
data is synced before its name appears, the directory after, and a failed sync is final. After an
EIO the kernel may mark the lost pages clean, so a second sync that succeeds proves nothing.
"""

import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import SnapshotError

_FIXES = {
    errno.ENOSPC: "free space on that disk, or point run.dir at a larger one",
    errno.EDQUOT: "the quota is used up: free space, or point run.dir elsewhere",
    errno.EFBIG: "raise the file size limit (ulimit -f), or point run.dir at another file system",
    errno.EIO: "the device failed: check it, and write to another one",
    errno.EROFS: "the file system is read-only: remount it, or point run.dir elsewhere",
    errno.EACCES: "give this user write permission on the directory, or point run.dir elsewhere",
    errno.EPERM: "give this user write permission on the directory, or point run.dir elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "check the path; something may have removed it meanwhile",
    errno.ENOLCK: "use a file system with file locks (mount Lustre with -o flock)",
    errno.EOPNOTSUPP: "use a file system with file locks (mount Lustre with -o flock)",
}
_OTHER_FIX = "check the directory and its file system"
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
# File systems without RENAME_NOREPLACE answer EINVAL, kernels without renameat2 ENOSYS.
_NO_RENAMEAT2 = (errno.EINVAL, errno.ENOSYS)


class Disk:
    """The file system as bundles use it; raises OSError."""

    def create(self, path: Path) -> int:
        """Returns a descriptor to write a new file, which nobody can open for writing again."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        # The mode counts from the next open on: files are write-once, as truncating a mapped file
        # kills its reader.
        return os.open(path, flags, 0o444)

    def open_file(self, name: str | Path, directory: int | None = None) -> int:
        """Returns a descriptor to read a file; a link is refused, a fifo does not block."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=directory)

    def open_directory(self, path: Path) -> int:
        """Returns a descriptor of a directory; a link is refused."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def open_lock(self, path: Path) -> int:
        """Returns a descriptor of a lock file, made if it is missing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    def lock(self, descriptor: int) -> bool:
        """Takes an exclusive lock until the descriptor is closed; False where another holds it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def names(self, directory: int | Path) -> list[str]:
        """Returns the names in a directory, sorted."""
        return sorted(os.listdir(directory))  # noqa: PTH208  a descriptor, not a path

    def status(self, name: str | Path, directory: int | None = None) -> os.stat_result:
        """Returns what a name is, a link being a link."""
        return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def read(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """Fills the front of `buffer` from an offset of a file; returns how much."""
        return os.preadv(descriptor, [buffer], offset)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Writes the front of `data`; returns how much."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int) -> None:
        """Empties a lock file."""
        os.ftruncate(descriptor, 0)

    def sync(self, descriptor: int) -> None:
        """Returns when the file's data is on the device."""
        os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Returns when the names in a directory are on the device."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Closes a descriptor."""
        os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """Makes one directory, which must be new."""
        path.mkdir()

    def rename_over(self, source: Path, target: Path) -> None:
        """Renames a file, replacing the target in one step."""
        source.rename(target)

    def rename_new(self, source: Path, target: Path) -> None:
        """Renames a directory; FileExistsError where the target exists, even if it is empty."""
        try:
            _renameat2_noreplace(source, target)
        except OSError as exc:
            if exc.errno not in _NO_RENAMEAT2:
                raise
            self._rename_new_locked(source, target)

    def remove_file(self, path: Path) -> None:
        """Removes a name that is no directory."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Removes an empty directory."""
        path.rmdir()

    def _rename_new_locked(self, source: Path, target: Path) -> None:
        """The same among processes that use this function, where the kernel cannot do it."""
        descriptor = self.open_lock(target.parent / ".rename.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            source.rename(target)
        finally:
            self.close(descriptor)


DISK = Disk()


def _renameat2_noreplace(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(source))
    failed = libc.renameat2(
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(source)),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(_RENAME_NOREPLACE),
    )
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


@contextmanager
def translated(action: str, directory: object) -> Iterator[None]:
    """Turns an OSError inside into a SnapshotError: `action` failed in `directory`."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        what = f'cannot {action} in "{directory}": {reason[:1].lower()}{reason[1:]}'
        fix = _FIXES.get(exc.errno or 0, _OTHER_FIX)
        raise SnapshotError(what, fix) from exc


def write_all(disk: Disk, descriptor: int, data: memoryview) -> None:
    """Writes all of `data`, however little the kernel takes at a time."""
    while data:
        written = disk.write(descriptor, data)
        if written <= 0:
            raise OSError(errno.EIO, "the file system took no bytes of a write")
        data = data[written:]


def read_all(disk: Disk, descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fills `buffer` from `offset` on; returns how much there was before the file's end."""
    done = 0
    while done < len(buffer):
        count = disk.read(descriptor, buffer[done:], offset + done)
        if count <= 0:
            break
        done += count
    return done


def replace_file(disk: Disk, path: Path, data: bytes, temporary: Path) -> None:
    """Makes `path` hold `data`; at every moment, power cuts included, it is the old or the new."""
    descriptor = disk.create(temporary)
    try:
        try:
            write_all(disk, descriptor, memoryview(data))
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)
        disk.rename_over(temporary, path)
    except OSError:
        remove_quietly(disk, temporary)
        raise
    disk.sync_directory(path.parent)


def remove_quietly(disk: Disk, path: Path) -> bool:
    """Removes a file or a directory of files as far as it goes; returns whether it is gone."""
    try:
        try:
            names = disk.names(path)
        except NotADirectoryError:
            disk.remove_file(path)
            return True
        for name in names:
            disk.remove_file(path / name)
        disk.remove_directory(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def locked(disk: Disk, path: Path, patience_s: float) -> Iterator[None]:
    """Holds the lock file `path`; SnapshotError where another process keeps it too long."""
    deadline = time.monotonic() + patience_s
    while True:
        with translated("take the lock", path.parent):
            descriptor = disk.open_lock(path)
            try:
                taken = disk.lock(descriptor)
            except OSError:
                disk.close(descriptor)
                raise
        try:
            if taken and _is_still(path, descriptor):
                yield
                return
        finally:
            disk.close(descriptor)
        if time.monotonic() > deadline:
            raise SnapshotError(
                f'another process has held "{path}" for {patience_s:.0f} s',
                "end that process (a stopped one keeps its lock), then try again",
            )
        time.sleep(0.02)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a locked file is still the one of that name; a removed one would guard nothing."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
