"""The checkpoints of a run: what training goes on from after any kind of end.

    checkpoints/CURRENT               the checkpoint in force (storage.pointer)
    checkpoints/step-0000001234/      a bundle; -2, -3... where that name exists already
    checkpoints/.attempt, .lock ...   who may write (storage.attempts)

or the same under a prefix of an object store (storage.object_depot).

A save counts when CURRENT names it. Whatever stops a save leaves the one before in force, and what
it wrote is removed, at the latest when the run starts again. A bundle's content is the caller's,
plus the object "checkpoint" (trainer.latest.CheckpointRecord).

With several ranks each writes its own rows into the draft that rank 0 made, side by side; rank 0
gathers their digests, writes the manifest and commits once. Rank 0 alone holds the attempt. The
ranks agree after each part of the work, so an error on one is an error on all and nothing is
committed.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from features.errors import FirstRankError, LostRankError, MuxtableError, SnapshotError
from sharding.ranks import Ranks
from storage.bundle import Verify
from storage.chain import DELTA, Checkpoint, Link
from storage.depot import Draft, Tenure, depot_at
from storage.fsops import DISK, Disk
from storage.manifest import Parts
from storage.parts import PartsWriter, Sharded
from storage.places import Place
from storage.pointer import Pointer
from trainer.deltas import Deltas
from trainer.latest import RECORD, CheckpointRecord, latest_checkpoint
from trainer.retention import Retention
from trainer.shared import check_shared, open_together

__all__ = ["CheckpointStore", "Saved", "Sharded", "latest_checkpoint"]

logger = logging.getLogger(__name__)

_MAX_THREADS = 2
# How often the ranks tell each other whether they have written their parts.
_ROUND_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A save that was committed."""

    name: str
    step: int
    digest: str
    base: str | None
    """The checkpoint it is a delta on; None for a whole one."""
    size_bytes: int
    stall_s: float
    """Seconds the caller waited."""
    total_s: float
    """Seconds until it was committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A save on its way: what this rank writes of it, and on rank 0 the whole."""

    step: int
    link: Link | None
    parts: PartsWriter
    whole: "_Whole | None"
    began: float
    stall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    draft: Draft
    content: dict[str, Any]
    record: CheckpointRecord


class CheckpointStore:
    """Writes the checkpoints of a run; starting it takes the directory from any older process.

    `keep` newest checkpoints stay, and the best. `copy_budget` is the memory `save_async` may copy
    into, on each rank. Every rank makes one and makes the same calls. Only one thread may use a
    store. To read the checkpoints of a run that may be training, use `latest_checkpoint`.

    Raises SnapshotError where the directory cannot be written, or a rank does not see it.
    """

    def __init__(
        self,
        directory: Place,
        keep: int,
        attempt: str | None = None,
        *,
        copy_budget: int = 0,
        ranks: Ranks | None = None,
        threads: int | None = None,
        disk: Disk = DISK,
    ) -> None:
        self.directory = directory
        self._copy_budget = copy_budget
        self._threads = threads or min(_MAX_THREADS, os.cpu_count() or 1)
        self._disk = disk
        # Saves in the background speak over a group of their own.
        self._ranks = (ranks or Ranks.alone()).beside()
        self.deltas: Deltas | None = None
        """Where set, decides which saves hold only rows that changed; on every rank or none."""
        self._depot = self._ranks.together(lambda: depot_at(directory, disk))
        self._tenure: Tenure | None = None
        self._retention: Retention | None = None
        self._parent: str | None = None
        self._promotion = 0
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._failure: BaseException | None = None
        try:
            token = self._ranks.from_first(lambda: self._take(keep, attempt))
            check_shared(self._ranks, self._depot, token)
        except BaseException:
            self._give_up()
            raise

    def save(
        self,
        step: int,
        sharded: Mapping[str, Sharded],
        tensors: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
        content: Mapping[str, Any],
        best: bool = False,
    ) -> Saved:
        """Saves and returns when it is committed; raises what a save in the background met.

        `sharded` are the tensors of which each rank has some rows. `tensors`, `files`, `content`
        and `best` are rank 0's; those of the others are not looked at.
        """
        self.wait()
        link, sharded = self._choose(sharded)
        draft = self._write(step, link, sharded, tensors, files, content, best, copy=False)
        saved = self._commit(draft)
        return replace(saved, stall_s=saved.total_s)

    def save_async(
        self,
        step: int,
        sharded: Mapping[str, Sharded],
        tensors: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
        content: Mapping[str, Any],
        best: bool = False,
    ) -> float:
        """Copies what fits into the copy budget and saves it in the background; see `save`.

        Returns the seconds the caller waited: for the save before, for the copies, and, where all
        is more than the budget, for writing the rest. A failure is raised by the next call.
        """
        began = time.perf_counter()
        self.wait()
        link, sharded = self._choose(sharded)
        draft = self._write(step, link, sharded, tensors, files, content, best, copy=True)
        stall_s = time.perf_counter() - began
        draft = replace(draft, stall_s=stall_s)
        # No daemon: a save that nobody waits for still ends before the process does.
        self._thread = threading.Thread(target=self._run, args=(draft,), name="checkpoint")
        self._thread.start()
        return stall_s

    def wait(self) -> Saved | None:
        """Waits for the save in the background; returns it, None if there was none."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        saved, failure = self._saved, self._failure
        self._saved = self._failure = None
        if isinstance(failure, SnapshotError | FirstRankError):
            what = f"the last save failed: {failure.what}"
            raise type(failure)(what, failure.fix) from failure
        if failure is not None:
            raise failure
        return saved

    def latest(self, *, verify: Verify = True, fallback: bool = False) -> Checkpoint | None:
        """Returns the checkpoint in force; see `latest_checkpoint`.

        The ranks share the work of verifying it, and each checks again, by crc32, what it reads.
        """
        if self._ranks.world_size == 1:
            found = latest_checkpoint(
                self.directory, verify=verify, fallback=fallback, disk=self._disk
            )
        else:
            found = open_together(self._ranks, self.directory, verify, fallback, self._disk)
        if found is not None:
            self._parent = found.digest
        return found

    def close(self) -> None:
        """Waits for the save in the background and gives the directory up."""
        try:
            self.wait()
        finally:
            self._give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except MuxtableError as exc:
            if error is None:
                raise
            logger.error("%s", exc)

    def _take(self, keep: int, token: str | None) -> str:
        """Starts the attempt, on rank 0; returns its token."""
        self._tenure = self._depot.take(token)
        self._retention = Retention(self._depot, self._tenure, keep, self._disk)
        pointer = self._pointer()
        self._parent = pointer.digest if pointer else None
        self._promotion = pointer.counter if pointer else 0
        return self._tenure.token

    def _give_up(self) -> None:
        if self._tenure is not None:
            self._tenure.close()

    def _choose(self, sharded: Mapping[str, Sharded]) -> tuple[Link | None, Mapping[str, Sharded]]:
        if self.deltas is None:
            return None, sharded
        return self.deltas.choose(self._ranks, sharded)

    def _write(
        self,
        step: int,
        link: Link | None,
        sharded: Mapping[str, Sharded],
        tensors: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
        content: Mapping[str, Any],
        best: bool,
        *,
        copy: bool,
    ) -> _Draft:
        """Writes tensors and files, or copies them and lets threads write them."""
        began = time.perf_counter()
        whole: _Whole | None = None

        def begin() -> str:
            nonlocal whole
            whole = self._begin(step, link, content, best)
            return whole.draft.label

        label = self._ranks.from_first(begin)
        parts = whole.draft.parts if whole else self._join(label)
        draft = _Draft(step=step, link=link, parts=parts, whole=whole, began=began, stall_s=0.0)

        def fill() -> None:
            for tensor, rows in sharded.items():
                parts.add(tensor, rows, copy=copy)
            if whole:
                for tensor, array in tensors.items():
                    parts.add(tensor, Sharded.whole(array), copy=copy)
                for file, data in files.items():
                    parts.add_file(file, data)
            parts.finish()

        try:
            self._ranks.together(fill)
        except BaseException as exc:
            self._abandon(draft, exc)
            raise
        return draft

    def _begin(
        self, step: int, link: Link | None, content: Mapping[str, Any], best: bool
    ) -> _Whole:
        """Makes the draft, on rank 0."""
        assert self._tenure is not None and self._retention is not None  # noqa: PT018, S101
        for key in (RECORD, DELTA):
            if key in content:
                raise SnapshotError(f'content has the key "{key}"', "it is taken: use another one")
        promotion = max(self._promotion, self._retention.last_promotion()) + 1
        name = self._tenure.free_name(f"step-{step:010d}")
        record = CheckpointRecord(
            name=name,
            step=step,
            best=best,
            promotion=promotion,
            lineage=self._tenure.lineage,
            attempt_number=self._tenure.number,
        )
        draft = self._tenure.begin(
            name,
            "checkpoint",
            self._parent,
            threads=self._threads,
            copy_budget=self._copy_budget,
        )
        own: dict[str, Any] = {RECORD: record.model_dump()}
        if link is not None:
            own[DELTA] = link.to_json()
        return _Whole(draft=draft, content={**content, **own}, record=record)

    def _join(self, label: str) -> PartsWriter:
        """Returns what another rank than 0 writes into a draft with."""
        return self._depot.join(
            label,
            f"r{self._ranks.rank:04d}-",
            threads=self._threads,
            copy_budget=self._copy_budget,
        )

    def _commit(self, draft: _Draft) -> Saved:
        try:
            others = self._parts_of_others(draft)
        except BaseException as exc:
            self._abandon(draft, exc)
            raise
        said = self._ranks.from_first(lambda: self._publish(draft, others))
        name, digest, size_bytes = json.loads(said)
        if self.deltas is not None:
            self.deltas.committed(name, digest)
        if self._retention is not None:
            self._retention.prune(name)
        saved = Saved(
            name=name,
            step=draft.step,
            digest=digest,
            base=draft.link.base if draft.link else None,
            size_bytes=size_bytes,
            stall_s=draft.stall_s,
            total_s=time.perf_counter() - draft.began,
        )
        logger.info(
            "saved %s%s: %.1f MB in %.2f s; training waited %.2f s",
            saved.name,
            f" (what changed since {saved.base})" if saved.base else "",
            saved.size_bytes / 1e6,
            saved.total_s,
            saved.stall_s or saved.total_s,
        )
        return saved

    def _parts_of_others(self, draft: _Draft) -> list[Parts]:
        """Waits until all ranks have written their parts; on rank 0 returns those of the others."""
        if self._ranks.world_size == 1:
            return []
        parts = draft.parts
        has_failed = self._ranks.until_all(
            lambda: parts.is_done(_ROUND_S), lambda: parts.has_failed
        )
        error: BaseException | None = None
        report = ""
        try:
            # Where another rank failed, the rest of this one's need not be written.
            if not has_failed or parts.has_failed:
                report = parts.parts().model_dump_json()
        except BaseException as exc:  # noqa: BLE001  raised again by `agree`, on every rank
            error = exc
        reports = self._ranks.agree(error, report)
        return [Parts.model_validate_json(each) for each in reports[1:]]

    def _publish(self, draft: _Draft, others: list[Parts]) -> str:
        """Commits, on rank 0; returns name, digest and size as JSON."""
        assert draft.whole is not None and self._tenure is not None  # noqa: PT018, S101
        whole = draft.whole
        try:
            digest = whole.draft.seal(whole.content, others)
        except BaseException:
            whole.draft.discard()
            raise
        self._tenure.commit(whole.draft, digest, whole.record.promotion)
        self._parent, self._promotion = digest, whole.record.promotion
        return json.dumps([whole.record.name, digest, whole.draft.size_bytes])

    def _abandon(self, draft: _Draft, error: BaseException) -> None:
        """Removes a draft once no rank writes into it any more."""
        draft.parts.stop()
        if not isinstance(error, LostRankError):
            with suppress(LostRankError):  # a rank is lost: it writes no more
                self._ranks.barrier()
        if draft.whole is not None:
            draft.whole.draft.discard()

    def _run(self, draft: _Draft) -> None:
        try:
            self._saved = self._commit(draft)
        except BaseException as exc:  # noqa: BLE001  raised by the next call, in the caller's thread
            self._failure = exc

    def _pointer(self) -> Pointer | None:
        try:
            return self._depot.pointer()
        except SnapshotError as exc:
            logger.warning("%s", exc)  # `latest` raises it; a save puts a new one in its place
            return None
