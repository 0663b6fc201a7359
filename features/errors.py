"""The error tree: every failure a user can cause: what happened, and how to put it right.

    MuxtableError
    +-- ConfigError        a job file, a setting or a command's argument
    +-- DataError          a file, a column or a value of the input
    +-- PlanError          the job does not fit: rows, bytes, memory
    +-- SnapshotError      a checkpoint or a snapshot on disk
    +-- CodecError         rows that cannot be encoded or decoded
    +-- TrainingError      a run that cannot go on: a non-finite loss
    |   +-- LostRankError  another rank ended, hangs, or cannot be reached
    +-- FirstRankError     what rank 0 reports, on the other ranks
    +-- UnavailableError   a service that cannot answer now
    +-- ServiceError       what a caller asks of a service
        +-- NotFoundError  a version, a feature or a file that it does not have
        +-- StateError     a version that is not in a state for it
        +-- LimitError     more than it takes at once
        +-- AccessError    a caller who may not ask

`launch` prints `what` and `fix` and exits with `exit_code`: 2 where the input is wrong, 1 where the
work failed on the way. Errors cross processes, so both fields survive pickling.
"""

from typing import ClassVar


class MuxtableError(Exception):
    """An error with two halves: `what` happened and where, and the `fix` to try."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


class ConfigError(MuxtableError):
    """A job file, a setting or a command's argument is wrong."""


class DataError(MuxtableError):
    """A file, a column or a value of the input is wrong."""


class PlanError(MuxtableError):
    """The job cannot fit into the rows, the bytes or the memory it was given."""


class SnapshotError(MuxtableError):
    """A checkpoint or snapshot is missing, damaged, foreign, or cannot be written."""


class CodecError(MuxtableError):
    """Rows cannot be encoded or decoded."""


class TrainingError(MuxtableError):
    """A run cannot go on."""

    exit_code: ClassVar[int] = 1


class LostRankError(TrainingError):
    """Another rank ended, hangs, or cannot be reached."""


class FirstRankError(MuxtableError):
    """What rank 0 reports, on the other ranks, which need not say it again."""

    def __init__(self, what: str, fix: str, exit_code: int = 1) -> None:
        super().__init__(what, fix)
        self.exit_code = exit_code  # type: ignore[misc]


class UnavailableError(MuxtableError):
    """A service cannot answer now; the same call may succeed later."""

    exit_code: ClassVar[int] = 1


class ServiceError(MuxtableError):
    """A service will not do what it is asked."""


class NotFoundError(ServiceError):
    """A service does not have the version, the feature or the file it is asked for."""


class StateError(ServiceError):
    """A version is not in a state in which it can do what it is asked."""


class LimitError(ServiceError):
    """A request or its reply is larger than a service takes at once."""


class AccessError(ServiceError):
    """A caller did not say who it is, or may not ask for this."""
