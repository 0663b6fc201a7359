"""What the ranks agree on after a part of common work: that all went well, or what went wrong."""

import json
from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch

from features.errors import FirstRankError, LostRankError, MuxtableError, SnapshotError
from sharding.ranks import Ranks

T = TypeVar("T")


def agree(ranks: Ranks, error: BaseException | None, report: str = "") -> list[str]:
    """Returns the reports of all ranks on rank 0, and an empty list elsewhere.

    Where any rank brings an error, raises on all, naming the first rank that failed: a
    SnapshotError on rank 0 (its own error as it is), a FirstRankError elsewhere.
    """
    if ranks.world_size == 1:
        if error is not None:
            raise error
        return [report]
    said = None if error is None else _described(error)
    reports = ranks.gather(json.dumps({"error": said, "report": report}).encode())
    heard = [json.loads(each) for each in reports]
    failed = [(rank, each["error"]) for rank, each in enumerate(heard) if each["error"]]
    verdict = json.loads(ranks.share(json.dumps(failed[:1]).encode() if ranks.is_first else None))
    if verdict:
        _raise_of(ranks, error, *verdict[0])
    return [each["report"] for each in heard]


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """Returns what this rank's `work` returns, once that of every rank has; raises as `agree`."""
    error: BaseException | None = None
    try:
        result = work()
    except LostRankError:
        raise  # nobody can be told
    except BaseException as exc:  # noqa: BLE001  raised again by `agree`, on every rank
        error = exc
    agree(ranks, error)
    return result


def from_first(ranks: Ranks, work: Callable[[], str]) -> str:
    """Returns on every rank what `work` returns on rank 0, where alone it runs; raises on all.

    It may take longer than the ranks' timeout.
    """
    return ranks.by_first(lambda: work().encode()).decode()


def until_all(ranks: Ranks, is_done: Callable[[], bool], has_failed: Callable[[], bool]) -> bool:
    """Returns when all ranks are done, or one has failed: then True.

    `is_done` waits a moment. In rounds, so that a rank that takes long is told from a lost one.
    """
    while True:
        state = torch.tensor([is_done(), has_failed()], dtype=torch.int64)
        num_done, num_failed = ranks.sum(state).tolist()
        if num_failed or num_done == ranks.world_size:
            return bool(num_failed)


def counts_of(ranks: Ranks, count: int) -> list[int]:
    """Returns the count that each rank brings."""
    counts = torch.zeros(ranks.world_size, dtype=torch.int64)
    counts[ranks.rank] = count
    return [int(each) for each in ranks.sum(counts)]


def _described(error: BaseException) -> tuple[str, str]:
    if isinstance(error, MuxtableError):
        return error.what, error.fix
    return f"{type(error).__name__}: {error}"[:500], "see the log of that rank"


def _raise_of(
    ranks: Ranks, error: BaseException | None, failed: int, said: tuple[str, str]
) -> NoReturn:
    if error is not None and (ranks.is_first or not isinstance(error, MuxtableError)):
        raise error
    what, fix = said
    told = f"rank {failed}: {what}"
    if ranks.is_first:
        raise SnapshotError(told, fix)
    raise FirstRankError(told, fix, SnapshotError.exit_code) from error
