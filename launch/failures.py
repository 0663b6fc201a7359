"""What an exception says to a person: what happened, the fix to try, and the exit code."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from features.errors import MuxtableError

INTERRUPTED = 130
BROKEN_PIPE = 141

_FIXES = {
    errno.ENOSPC: (1, "free some space, or write to another disk"),
    errno.EDQUOT: (1, "free some of the quota, or write to another disk"),
    errno.EIO: (1, "the disk reports an error: look at the system log"),
    errno.EMFILE: (1, "raise the limit of open files (ulimit -n)"),
    errno.EACCES: (2, "change the permissions, or name another place"),
    errno.EPERM: (2, "change the permissions, or name another place"),
    errno.EROFS: (2, "name a place on a disk that is not read-only"),
    errno.ENOENT: (2, "check the path"),
    errno.EEXIST: (2, "remove it, or name another place"),
    errno.ENOTDIR: (2, "check the path: a part of it is a file"),
    errno.EISDIR: (2, "name a file, not a folder"),
    errno.ENAMETOOLONG: (2, "choose a shorter name"),
}


# Packages the base installation does without.
_TRAINING_PACKAGES = ("torch", "tensorboard", "safetensors")


@dataclass(frozen=True, slots=True)
class Failure:
    """How a failed command ends."""

    what: str
    fix: str
    exit_code: int


def describe(exc: BaseException) -> Failure:
    """Returns what to print for `exc`; whatever is not foreseen is a bug and exits with 1."""
    if isinstance(exc, MuxtableError):
        return Failure(exc.what, exc.fix, exc.exit_code)
    if isinstance(exc, OSError) and exc.errno in _FIXES:
        exit_code, fix = _FIXES[exc.errno]
        where = exc.filename2 or exc.filename
        place = f"{os.fsdecode(where)}: " if isinstance(where, str | bytes) else ""
        return Failure(f"{place}{os.strerror(exc.errno).lower()}", fix, exit_code)
    if isinstance(exc, ImportError):
        package = (exc.name or "").partition(".")[0]
        if package == "native":
            return Failure("the native module is not built", "run `make native`", 1)
        if package in _TRAINING_PACKAGES:
            fix = "pip install 'muxtable[train]'"
            return Failure(f"this command needs {package}, which is not installed", fix, 1)
    if isinstance(exc, MemoryError):
        return Failure(
            "out of memory",
            "`muxtable plan` forecasts the peak; lower table.budget or train.batch_size",
            1,
        )
    text = str(exc).strip().splitlines()
    first = f": {text[0]}" if text else ""
    return Failure(
        f"unexpected {type(exc).__name__}{first}",
        "this is a bug in muxtable; run again with --debug and report what it prints",
        1,
    )
