"""Ranks that die: real processes, of which one ends at once at a chosen call of its disk."""

import os
from collections.abc import Callable
from typing import Any

from tests.ranks import start_ranks
from tests.storage.faults import CHANGES, WatchedDisk


class DyingDisk(WatchedDisk):
    """Ends the process ahead of the n-th change (from 0); half of a write still happens."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at = at
        self.changes: list[str] = []

    def before(self, operation: str, arguments: tuple) -> None:
        if operation in CHANGES:
            if len(self.changes) == self.at:
                if operation == "write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(137)
            self.changes.append(operation)


def run_dying(
    world_size: int, function: Callable[..., Any], *args: Any, timeout_s: float = 60
) -> list[Any]:
    """Returns what each rank gave, "died" for one that did, its error's text for one that raised.

    Other than `tests.ranks.run_ranks`, the ranks that are left go on to their own end.
    """
    started = start_ranks(world_size, function, *args)
    results: list[Any] = []
    for process, end in zip(started.processes, started.ends, strict=True):
        if not end.poll(timeout_s):
            process.kill()
            raise AssertionError(f"a rank did not end within {timeout_s} s")
        try:
            results.append(end.recv()[1])
        except EOFError:
            process.join()
            assert process.exitcode == 137, process.exitcode
            results.append("died")
        process.join(30)
    return results
