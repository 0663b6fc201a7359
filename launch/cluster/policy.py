"""What to do after an attempt failed: start again, go on with fewer workers, or give up.

`decide` is a pure function of what is known; `launch.cluster.driver` acts on its answer.

| what is known | decision |
|---|---|
| a mistake, or an error that comes again bit for bit | give up |
| more failures than run.max_failures | give up |
| IDLE_LIMIT failed attempts in a row without a new checkpoint | give up |
| no worker is left | give up |
| out of memory, and fewer workers are left than ran | give up: each would hold more rows |
| fewer workers are left than ran | shrink |
| otherwise | restart, with as many workers as there are, up to those asked for |
"""

from dataclasses import dataclass
from enum import Enum

IDLE_LIMIT = 3


class Cause(Enum):
    """Why an attempt failed."""

    MISTAKE = "mistake"
    """The input is wrong, or an error of ours that the next attempt would meet again."""
    MEMORY = "out of memory"
    LOST = "lost worker"
    """A process or a node died or hangs."""
    ERROR = "unexpected error"
    START = "no start"
    """The workers could not be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A failed attempt, and what there is for another one."""

    cause: Cause
    failures: int
    """Failed attempts of this run, this one included."""
    max_failures: int
    idle: int
    """Failed attempts in a row, this one included, that left no new checkpoint."""
    wanted: int
    """Workers that were asked for."""
    workers: int
    """Workers of the failed attempt."""
    available: int
    """Workers that the cluster can hold now."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again with at least as many workers."""

    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class Shrink:
    """Go on with the workers that are left."""

    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the run with its error."""

    reason: str


def decide(state: State) -> Restart | Shrink | GiveUp:
    """Returns what to do after a failed attempt; the table above."""
    if state.cause is Cause.MISTAKE:
        return GiveUp("another attempt would meet the same error")
    if state.failures > state.max_failures:
        allowed = f"run.max_failures allows {state.max_failures}"
        return GiveUp(f"it is failure {state.failures}, and {allowed}")
    if state.idle >= IDLE_LIMIT:
        return GiveUp(f"{state.idle} attempts in a row came to no new checkpoint")
    if state.available < 1:
        return GiveUp("the cluster has no worker left")
    reason = f"failure {state.failures} of {state.max_failures} allowed"
    if state.available >= state.workers:
        return Restart(min(state.wanted, state.available), reason)
    if state.cause is Cause.MEMORY:
        fewer = f"{state.available} instead of {state.workers} workers are left"
        return GiveUp(f"{fewer}, and each of them would need more memory")
    return Shrink(state.available, f"{reason}; {state.available} workers are left")
