"""Disks that fail on purpose: they stop, refuse, dawdle or write down what they were asked."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from storage.fsops import Disk

CHANGES = (
    "create",
    "open_lock",
    "write",
    "truncate",
    "sync",
    "sync_directory",
    "make_directory",
    "rename_over",
    "rename_new",
    "remove_file",
    "remove_directory",
)
READS = ("open_file", "open_directory", "lock", "names", "status", "read", "close")


class Crash(BaseException):
    """The process is dead from here on; no handler may catch it as an error."""


class WatchedDisk(Disk):
    """Calls `before(operation, arguments)` ahead of each call, and keeps the open descriptors."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.calls: list[str] = []

    def before(self, operation: str, arguments: tuple) -> None:  # noqa: ARG002  for others
        self.calls.append(operation)

    def die(self) -> None:
        """Closes what the kernel would close with the process: so its locks go."""
        for descriptor in self.open:
            os.close(descriptor)
        self.open.clear()


def _watched(operation: str) -> Callable:
    original = getattr(Disk, operation)

    def call(self: WatchedDisk, *arguments):
        self.before(operation, arguments)
        result = original(self, *arguments)
        if operation in ("create", "open_lock", "open_file", "open_directory"):
            self.open.add(result)
        if operation == "close":
            self.open.discard(arguments[0])
        return result

    return call


for _operation in CHANGES + READS:
    setattr(WatchedDisk, _operation, _watched(_operation))


class CrashingDisk(WatchedDisk):
    """Dies ahead of the n-th call (from 0); half of a write still happens."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.is_dead = False

    def before(self, operation: str, arguments: tuple) -> None:
        if self.is_dead:
            raise Crash
        if len(self.calls) == self.at:
            self.is_dead = True
            if operation == "write":
                os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise Crash
        super().before(operation, arguments)


class FailingDisk(WatchedDisk):
    """Answers the n-th call of one operation (from 0) with an error, and half of a write."""

    def __init__(self, operation: str, at: int, code: int) -> None:
        super().__init__()
        self.operation, self.at, self.code = operation, at, code
        self.seen = 0

    def before(self, operation: str, arguments: tuple) -> None:
        if operation == self.operation:
            self.seen += 1
            if self.seen - 1 == self.at:
                if operation == "write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(self.code, os.strerror(self.code))
        super().before(operation, arguments)


class FullDisk(WatchedDisk):
    """Has no space for files while `is_full`."""

    is_full = True

    def before(self, operation: str, arguments: tuple) -> None:
        super().before(operation, arguments)
        if self.is_full and operation == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class ShortDisk(Disk):
    """Takes and gives seven bytes a call at most."""

    def write(self, descriptor: int, data: memoryview) -> int:
        return super().write(descriptor, data[:7])

    def read(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        return super().read(descriptor, buffer[:7], offset)


class SlowDisk(Disk):
    """Takes its time for each sync of a file."""

    def sync(self, descriptor: int) -> None:
        time.sleep(0.1)
        super().sync(descriptor)


class HookedDisk(WatchedDisk):
    """Runs a function ahead of the first call of one operation."""

    def __init__(self, operation: str, hook: Callable[[], None]) -> None:
        super().__init__()
        self.operation, self.hook, self.is_done = operation, hook, False

    def before(self, operation: str, arguments: tuple) -> None:
        super().before(operation, arguments)
        if operation == self.operation and not self.is_done:
            self.is_done = True
            self.hook()


def leftovers(directory: Path) -> list[str]:
    """Returns what only a stopped process leaves behind."""
    return sorted(path.name for path in directory.iterdir() if path.name.endswith(".tmp"))
