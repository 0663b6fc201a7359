"""What to change in a job that does not fit into memory: edits that were tried on the forecast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from features.settings import parse_size
from trainer.job import Job

_LEAN_OPTIMIZER = "rowwise_adagrad"
_LEAN_COPY = "64 MiB"
_MOST_RANKS = 4096
_ROUND = 1_000_000

# peak(job, world_size): the forecast of a rank's memory in bytes.
Peak = Callable[[Job, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """An edit, and the peak a rank has with it."""

    edit: str
    peak_bytes: int


def find_remedies(
    job: Job, world_size: int, limit_bytes: int, peak: Peak, number: int = 3
) -> tuple[Remedy, ...]:
    """Returns `number` edits, those first that make each rank fit into `limit_bytes`."""
    before = peak(job, world_size)
    tried = [
        Remedy(edit=edit, peak_bytes=peak(changed, ranks))
        for edit, changed, ranks in _candidates(job, world_size, limit_bytes, before, peak)
    ]
    useful = [remedy for remedy in tried if remedy.peak_bytes < before]
    # Of those that suffice in the order they are tried, the others by what they leave.
    useful.sort(key=lambda remedy: max(remedy.peak_bytes - limit_bytes, 0))
    return tuple(useful[:number])


def _candidates(
    job: Job, world_size: int, limit_bytes: int, before: int, peak: Peak
) -> Iterator[tuple[str, Job, int]]:
    ranks = world_size
    while ranks < min(_MOST_RANKS, job.data.streams) and peak(job, ranks) > limit_bytes:
        ranks += 1
    if ranks > world_size:
        yield f"--workers {ranks}", job, ranks
    if job.table.budget is not None:
        budget = _smaller_budget(job, world_size, limit_bytes, before, peak)
        if budget is not None:
            text = f"{budget // _ROUND} MB"
            yield f'table.budget = "{text}"', _with(job, "table", budget=text), world_size
    if job.table.optimizer in ("adagrad", "adam"):
        changed = _with(job, "table", optimizer=_LEAN_OPTIMIZER)
        yield f'table.optimizer = "{_LEAN_OPTIMIZER}"', changed, world_size
    if parse_size(job.run.copy_budget) > parse_size(_LEAN_COPY):
        changed = _with(job, "run", copy_budget=_LEAN_COPY)
        yield f'run.copy_budget = "{_LEAN_COPY}"', changed, world_size
    if job.train.batch_size > 1:
        half = job.train.batch_size // 2
        yield f"train.batch_size = {half}", _with(job, "train", batch_size=half), world_size
    if job.data.block_rows > 8192:
        yield "data.block_rows = 8192", _with(job, "data", block_rows=8192), world_size


def _smaller_budget(
    job: Job, world_size: int, limit_bytes: int, before: int, peak: Peak
) -> int | None:
    """Returns the largest budget in whole megabytes that fits; None where not even a tenth does."""
    whole = job.table.budget_bytes or 0
    low, high = whole // 10 // _ROUND, whole // _ROUND

    def fits(megabytes: int) -> bool:
        changed = _with(job, "table", budget=f"{megabytes} MB")
        return peak(changed, world_size) <= limit_bytes

    if before <= limit_bytes or low < 1 or not fits(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * _ROUND


def _with(job: Job, part: str, **changes: object) -> Job:
    return job.model_copy(update={part: getattr(job, part).model_copy(update=changes)})
