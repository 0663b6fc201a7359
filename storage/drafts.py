"""Drafts of snapshots: which of them are still written, and room for one more.

Many processes may export into one directory of versions at a time, so nobody owns it. A writer
locks its draft's directory for as long as it lives; a draft that nobody has locked, and in which
nothing happened for a while, was left by a process that is dead, and goes. The while bridges the
moment between making a directory and locking it.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import SnapshotError
from storage.fsops import DISK, Disk, remove_quietly, translated
from storage.names import temporary_attempt

logger = logging.getLogger(__name__)

LEASE_S = 60.0
# Left free on a disk beside what is written: a full one stops everybody who uses it.
_SPARE_BYTES = 16 << 20


@contextmanager
def held(draft: Path, disk: Disk = DISK) -> Iterator[None]:
    """Holds a draft that was just made, so that nobody sweeps it."""
    with translated("lock a draft", draft.parent):
        descriptor = disk.open_directory(draft)
        try:
            disk.lock(descriptor)
        except BaseException:
            disk.close(descriptor)
            raise
    try:
        yield
    finally:
        disk.close(descriptor)


def sweep(directory: Path, disk: Disk = DISK, lease_s: float = LEASE_S) -> None:
    """Removes the drafts of dead writers from a directory of versions."""
    with translated("look for drafts", directory):
        names = disk.names(directory)
    for name in names:
        if temporary_attempt(name) is not None and _is_dead(directory / name, disk, lease_s):
            if remove_quietly(disk, directory / name):
                logger.info('removed the draft "%s", which nobody writes any more', name)
            else:
                logger.warning('could not remove the draft "%s"', name)


def check_space(directory: Path, size_bytes: int) -> None:
    """Raises SnapshotError where the disk of a directory has no room for so many bytes."""
    with translated("look for free space", directory):
        status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < size_bytes + _SPARE_BYTES:
        raise SnapshotError(
            f'"{directory}" has {free / 1e6:,.1f} MB free, and {size_bytes / 1e6:,.1f} MB are to be'
            " written there",
            "free space on that disk, write to another one, or choose a smaller codec",
        )


def _is_dead(path: Path, disk: Disk, lease_s: float) -> bool:
    try:
        if time.time() - disk.status(path).st_mtime < lease_s:
            return False
        descriptor = disk.open_directory(path)
    except OSError:  # a file of somebody else, or gone meanwhile
        return False
    try:
        return disk.lock(descriptor)
    except OSError:
        return False
    finally:
        disk.close(descriptor)
