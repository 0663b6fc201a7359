"""Who may write into a directory of bundles: the attempt that started last, and it alone.

A retry can start while the process it replaces still runs. Each process is an *attempt*; it takes
the directory over when it starts, and looks whether it still has it, under a lock, before it
commits. So an older attempt can never commit after a newer one started.

    .lock               held for the moments of starting and committing
    .attempt            a document {attempt, lineage, number}: who started last
    .lease-<attempt>    locked as long as that process lives

The *lineage* is one token for all attempts that follow each other in the directory: what it wrote
it may remove, what came from elsewhere it may not. Something temporary has its attempt in its name
(`storage.names.temporary_path`) and is removed when no process has that attempt's lease locked. So
whoever writes something temporary here holds a lease. The locks are flock's: they end with their
process, whatever ends it.
"""

import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from features.errors import SnapshotError
from storage.documents import MAX_BYTES, read_document, write_document
from storage.fsops import (
    DISK,
    Disk,
    locked,
    remove_quietly,
    translated,
    write_all,
)
from storage.names import check_name, temporary_attempt

logger = logging.getLogger(__name__)

LOCK = ".lock"
RECORD = ".attempt"
LEASE = ".lease-"
PATIENCE_S = 60.0
_KEYS = frozenset({"attempt", "lineage", "number"})


class Attempt:
    """This process's right to write into a directory, until a newer attempt takes it."""

    def __init__(
        self,
        directory: Path,
        token: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        disk: Disk = DISK,
    ) -> None:
        self.directory = directory
        self.token = check_name("attempt", token or secrets.token_hex(8))
        self._patience_s = patience_s
        self._disk = disk
        self._lease: int | None = None
        make_directories(directory, disk)
        with locked(disk, directory / LOCK, patience_s):
            self._lease = self._take_lease()
            try:
                before = self._read_record()
                self.number = before["number"] + 1 if before else 1
                self.lineage = before["lineage"] if before else secrets.token_hex(8)
                self._write_record()
                self._sweep()
            except BaseException:
                self._drop_lease()
                raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the directory for a commit; SnapshotError if a newer attempt has taken it."""
        with locked(self._disk, self.directory / LOCK, self._patience_s):
            record = self._read_record()
            if record is None or record["attempt"] != self.token or record["number"] != self.number:
                newer = f'attempt "{record["attempt"]}" has' if record else "somebody has"
                raise SnapshotError(
                    f'attempt "{self.token}" may no longer write into "{self.directory}":'
                    f" {newer} taken it over",
                    "end this process; the newer one goes on from the last checkpoint",
                )
            yield

    def close(self) -> None:
        """Gives the directory up; what this attempt left behind may be removed by the next."""
        self._drop_lease()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lease_path(self, token: str) -> Path:
        return self.directory / f"{LEASE}{token}"

    def _take_lease(self) -> int:
        path = self._lease_path(self.token)
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        with translated("start an attempt", self.directory):
            descriptor = self._disk.open_lock(path)
            try:
                if not self._disk.lock(descriptor):
                    raise SnapshotError(
                        f'attempt "{self.token}" is already running in "{self.directory}"'
                        f"{_owner_of(path)}",
                        "wait for it or end it, or start with another attempt token",
                    )
                self._disk.truncate(descriptor)
                write_all(self._disk, descriptor, memoryview(json.dumps(owner).encode()))
            except BaseException:
                self._disk.close(descriptor)
                raise
        return descriptor

    def _drop_lease(self) -> None:
        if self._lease is not None:
            remove_quietly(self._disk, self._lease_path(self.token))
            self._disk.close(self._lease)
            self._lease = None

    def _read_record(self) -> dict[str, Any] | None:
        fix = (
            "remove it once nothing writes into the directory; older checkpoints are then kept"
            " until you remove them"
        )
        record = read_document(self.directory / RECORD, _KEYS, fix, self._disk)
        if record is not None and not (
            isinstance(record["attempt"], str)
            and isinstance(record["lineage"], str)
            and type(record["number"]) is int
        ):
            raise SnapshotError(f'"{self.directory / RECORD}" does not name an attempt', fix)
        return record

    def _write_record(self) -> None:
        record = {"attempt": self.token, "lineage": self.lineage, "number": self.number}
        write_document(self.directory / RECORD, record, self.token, self._disk)

    def _sweep(self) -> None:
        """Removes what dead attempts left; the lock is held, so no attempt starts meanwhile."""
        with translated("start an attempt", self.directory):
            names = self._disk.names(self.directory)
        alive = {self.token: False}  # what an earlier process of this token left is dead
        for name in names:
            token = temporary_attempt(name)
            if token is None:
                continue
            if token not in alive:
                alive[token] = self._is_alive(token)
            if alive[token]:
                logger.info('leaving "%s": attempt "%s" is still running', name, token)
            elif remove_quietly(self._disk, self.directory / name):
                logger.info('removed "%s", left by attempt "%s"', name, token)
            else:
                logger.warning('could not remove "%s", left by attempt "%s"', name, token)
        for name in names:
            token = name.removeprefix(LEASE)
            if token not in (name, self.token) and not self._is_alive(token):
                remove_quietly(self._disk, self.directory / name)

    def _is_alive(self, token: str) -> bool:
        """Whether a process holds the lease of an attempt; without a lease there is none."""
        path = self._lease_path(token)
        if not os.path.lexists(path):
            return False
        with translated("look for other attempts", self.directory):
            descriptor = self._disk.open_lock(path)
            try:
                return not self._disk.lock(descriptor)
            finally:
                self._disk.close(descriptor)


def make_directories(path: Path, disk: Disk = DISK) -> None:
    """Makes a directory and those above it, each synced into its parent."""
    with translated("make a directory", path.parent):
        if path.is_dir():
            return
    make_directories(path.parent, disk)
    with translated("make a directory", path.parent):
        try:
            disk.make_directory(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        disk.sync_directory(path.parent)


def _owner_of(lease: Path) -> str:
    try:
        owner = json.loads(lease.read_bytes()[:MAX_BYTES])
        return f" (process {int(owner['pid'])} on {str(owner['host'])[:64]})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
