"""From what is left of a failed attempt to its cause, and to what a person is told.

When a rank fails, the others lose their connection to it and fail too, and Ray reports all of
them. The one to name is, in this order: the first rank that says what is wrong; a worker that ran
out of memory; a worker that died; whatever else Ray says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError, MuxtableError, TrainingError
from launch.cluster.board import RankReport
from launch.cluster.policy import Cause

_MEMORY_FIX = (
    "`muxtable plan --workers N` forecasts the memory of a worker: use more workers, or lower "
    "table.budget or train.batch_size"
)
_LOST_FIX = "look at the machine's log; the run goes on from its last checkpoint when started again"
# What Ray says of a process that its memory monitor ended.
_MEMORY_SIGNS = (
    "out of memory issue",
    "memory monitor",
    "running low on memory",
    "OutOfMemory",
    "out of memory (OOM)",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in our words."""

    cause: Cause
    what: str
    fix: str
    exit_code: int = 1

    def error(self, because: str) -> MuxtableError:
        """Returns what the command ends with; `because` says why it is not tried again."""
        if self.cause is Cause.MISTAKE:
            kind = ConfigError if self.exit_code == ConfigError.exit_code else TrainingError
            return kind(self.what, self.fix)
        return TrainingError(f"{self.what}; given up: {because}", self.fix)


def find_failure(
    error: Exception, reports: Sequence[RankReport], *, kernel_killed: bool = False
) -> Failure:
    """Returns the failure behind what `fit` raised and what the ranks reported.

    `kernel_killed` says that the kernel ended a process of this machine for its memory meanwhile.
    """
    said = [report for report in reports if not report.is_consequence]
    if said:
        return _reported(said)
    died = {rank: text for rank, text in _deaths(error).items() if not _is_consequence(text)}
    for rank, text in died.items():
        if kernel_killed or _is_memory(text):
            return Failure(
                Cause.MEMORY, f"rank {rank} was ended: its machine ran out of memory", _MEMORY_FIX
            )
    if died:
        ranks = ", ".join(str(rank) for rank in died)
        name = f"rank {ranks}" if len(died) == 1 else f"ranks {ranks}"
        return Failure(Cause.LOST, f"{name} died{_detail(next(iter(died.values())))}", _LOST_FIX)
    if reports:
        return Failure(Cause.LOST, reports[0].what, reports[0].fix)
    if _is_memory(str(error)):
        # Of the processes on a node Ray may choose its own controller.
        return Failure(Cause.MEMORY, "a machine of the cluster ran out of memory", _MEMORY_FIX)
    return _not_started(str(error))


def _reported(said: Sequence[RankReport]) -> Failure:
    first = said[0]
    same = [report.rank for report in said if report.what == first.what]
    # What rank 0 says is about the job; what only others say is about their place.
    where = "" if 0 in same else f"rank {', '.join(map(str, sorted(same)))}: "
    if first.is_memory:
        return Failure(Cause.MEMORY, f"{where}{first.what}", _MEMORY_FIX)
    is_mistake = first.is_ours or first.exit_code == ConfigError.exit_code
    cause = Cause.MISTAKE if is_mistake else Cause.ERROR
    return Failure(cause, f"{where}{first.what}", first.fix, first.exit_code)


def _deaths(error: Exception) -> Mapping[int, str]:
    """What Ray says of each rank."""
    failures = getattr(error, "worker_failures", {})
    return {rank: str(each) for rank, each in sorted(failures.items())}


def _is_memory(text: str) -> bool:
    return any(sign in text for sign in _MEMORY_SIGNS)


def _is_consequence(text: str) -> bool:
    """Whether a rank only noticed that another one was gone."""
    return "actor died" not in text.lower() and "health check" not in text.lower()


def _detail(text: str) -> str:
    """The reason that Ray gives for a death, where it gives one."""
    if "node" in text and "died" in text and "The actor died because its node has died" in text:
        return ": its node is gone"
    if "connection error code 2" in text or "SIGKILL" in text:
        return " (killed, or crashed)"
    exited = re.search(r"exit detail: ([^.]+)\.", text) or re.search(r"exit_detail: ([^.]+)", text)
    return f": {exited[1]}" if exited else ""


def _not_started(text: str) -> Failure:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    missing = re.search(r"No module named '(\w+)", text)
    if missing:
        return Failure(
            Cause.MISTAKE,
            f"a node of the cluster has no package {missing[1]}",
            "install muxtable and its packages there; `muxtable doctor --address` shows each node",
        )
    last = lines[-1][:300] if lines else "no reason is given"
    return Failure(
        Cause.START,
        f"the workers could not be started: {last}",
        "`muxtable doctor --address` shows what each node has",
    )


def kernel_kills() -> int:
    """Returns how many processes of this machine the kernel has ended for their memory."""
    total = 0
    for path, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            lines = Path(path).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.split()[0] == key)
    return total
