"""The checkpoints of a run: what training goes on from after any kind of end.

    checkpoints/CURRENT               the checkpoint in force (storage.pointer)
    checkpoints/step-0000001234/      a bundle; -2, -3... where that name exists already
    checkpoints/.attempt, .lock ...   who may write (storage.attempts)

A save counts when CURRENT names it. Whatever stops a save leaves the one before in force, and what
it wrote is removed, at the latest when the run starts again. A bundle's content is the caller's,
plus the object "checkpoint" (trainer.latest.CheckpointRecord).
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from features.errors import SnapshotError
from storage.attempts import Attempt
from storage.bundle import Bundle, Verify
from storage.fsops import DISK, Disk, remove_quietly, translated
from storage.names import temporary_path
from storage.pointer import Pointer, read_pointer, write_pointer
from storage.writer import BundleWriter
from trainer.latest import (
    NAME,
    RECORD,
    CheckpointRecord,
    Complete,
    latest_checkpoint,
    look_at,
)

__all__ = ["CheckpointStore", "Saved", "latest_checkpoint"]

logger = logging.getLogger(__name__)

_MAX_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A save that was committed."""

    name: str
    step: int
    digest: str
    size_bytes: int
    stall_s: float
    """Seconds the caller waited."""
    total_s: float
    """Seconds until it was committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    writer: BundleWriter
    content: dict[str, Any]
    record: CheckpointRecord
    began: float
    stall_s: float


class CheckpointStore:
    """Writes the checkpoints of a run; starting it takes the directory from any older process.

    `keep` newest checkpoints stay, and the best. `copy_budget` is the memory `save_async` may copy
    into. Only one thread may use a store. To read the checkpoints of a run that may be training,
    use `latest_checkpoint`.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        attempt: str | None = None,
        *,
        copy_budget: int = 0,
        threads: int | None = None,
        disk: Disk = DISK,
    ) -> None:
        self.directory = directory
        self._keep = keep
        self._copy_budget = copy_budget
        self._threads = threads or min(_MAX_THREADS, os.cpu_count() or 1)
        self._disk = disk
        self._attempt = Attempt(directory, attempt, disk=disk)
        self._known: dict[str, Complete | None] = {}
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._failure: BaseException | None = None
        try:
            pointer = self._pointer()
        except BaseException:
            self._attempt.close()
            raise
        self._parent = pointer.digest if pointer else None
        self._promotion = pointer.counter if pointer else 0

    def save(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
        content: Mapping[str, Any],
        best: bool = False,
    ) -> Saved:
        """Saves and returns when it is committed; raises what a save in the background met."""
        self.wait()
        draft = self._write(step, tensors, files, content, best, copy=False)
        saved = self._commit(draft)
        return replace(saved, stall_s=saved.total_s)

    def save_async(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
        content: Mapping[str, Any],
        best: bool = False,
    ) -> float:
        """Copies what fits into the copy budget and saves it in the background.

        Returns the seconds the caller waited: for the save before, for the copies, and, where all
        is more than the budget, for writing the rest. A failure is raised by the next call.
        """
        began = time.perf_counter()
        self.wait()
        draft = self._write(step, tensors, files, content, best, copy=True)
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
        if isinstance(failure, SnapshotError):
            raise SnapshotError(f"the last save failed: {failure.what}", failure.fix) from failure
        if failure is not None:
            raise failure
        return saved

    def latest(self, *, verify: Verify = True, fallback: bool = False) -> Bundle | None:
        """Returns the checkpoint in force; see `latest_checkpoint`."""
        bundle = latest_checkpoint(
            self.directory, verify=verify, fallback=fallback, disk=self._disk
        )
        if bundle is not None:
            self._parent = bundle.digest
        return bundle

    def close(self) -> None:
        """Waits for the save in the background and gives the directory up."""
        try:
            self.wait()
        finally:
            self._attempt.close()

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
        except SnapshotError as exc:
            if error is None:
                raise
            logger.error("%s", exc)

    def _write(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
        content: Mapping[str, Any],
        best: bool,
        *,
        copy: bool,
    ) -> _Draft:
        """Writes tensors and files, or copies them and lets threads write them."""
        began = time.perf_counter()
        if RECORD in content:
            raise SnapshotError(f'content has the key "{RECORD}"', "it is taken: use another one")
        names = self._names()
        known = [found.record.promotion for found in self._complete(names)]
        name = _free_name(step, names)
        record = CheckpointRecord(
            name=name,
            step=step,
            best=best,
            promotion=max([self._promotion, *known]) + 1,
            lineage=self._attempt.lineage,
            attempt_number=self._attempt.number,
        )
        writer = BundleWriter(
            self.directory,
            name,
            "checkpoint",
            self._attempt.token,
            self._parent,
            threads=self._threads,
            copy_budget=self._copy_budget,
            disk=self._disk,
        )
        try:
            for tensor, array in tensors.items():
                writer.add_tensor(tensor, array, copy=copy)
            for file, data in files.items():
                writer.add_file(file, data)
            writer.finish()
        except BaseException:
            writer.discard()
            raise
        content = {**content, RECORD: record.model_dump()}
        return _Draft(writer=writer, content=content, record=record, began=began, stall_s=0.0)

    def _commit(self, draft: _Draft) -> Saved:
        writer, record = draft.writer, draft.record
        try:
            digest = writer.seal(draft.content)
            with self._attempt.held():
                writer.publish()
                write_pointer(
                    self.directory,
                    record.name,
                    digest,
                    record.promotion,
                    attempt=self._attempt.token,
                    disk=self._disk,
                )
        except BaseException:
            # A pointer that was replaced but not synced may survive a crash: then its bundle must.
            if not (writer.is_published and self._may_be_in_force(record.name)):
                writer.discard()
            raise
        self._parent, self._promotion = digest, record.promotion
        self._prune(record.name)
        saved = Saved(
            name=record.name,
            step=record.step,
            digest=digest,
            size_bytes=writer.size_bytes,
            stall_s=draft.stall_s,
            total_s=time.perf_counter() - draft.began,
        )
        logger.info(
            "saved %s: %.1f MB in %.2f s; training waited %.2f s",
            saved.name,
            saved.size_bytes / 1e6,
            saved.total_s,
            saved.stall_s or saved.total_s,
        )
        return saved

    def _run(self, draft: _Draft) -> None:
        try:
            self._saved = self._commit(draft)
        except BaseException as exc:  # noqa: BLE001  raised by the next call, in the caller's thread
            self._failure = exc

    def _pointer(self) -> Pointer | None:
        try:
            return read_pointer(self.directory, disk=self._disk)
        except SnapshotError as exc:
            logger.warning("%s", exc)  # `latest` raises it; a save puts a new one in its place
            return None

    def _may_be_in_force(self, name: str) -> bool:
        try:
            pointer = read_pointer(self.directory, disk=self._disk)
        except SnapshotError:
            return True
        return pointer is not None and pointer.name == name

    def _names(self) -> list[str]:
        with translated("list the checkpoints", self.directory):
            return self._disk.names(self.directory)

    def _complete(self, names: list[str]) -> list[Complete]:
        """Returns the complete checkpoints among `names`; each is looked at once."""
        fresh = {name: self._known.get(name) for name in names if name in self._known}
        for name in names:
            if name not in fresh and NAME.fullmatch(name):
                fresh[name] = look_at(self.directory / name, self._disk)
        self._known = fresh
        return [found for found in fresh.values() if found is not None]

    def _prune(self, current: str) -> None:
        """Removes what is neither among the newest, nor the best, nor of another lineage."""
        try:
            doomed = self._retire(current)
        except SnapshotError as exc:
            logger.warning("old checkpoints stay: %s", exc)
            return
        for path in doomed:
            if not remove_quietly(self._disk, path):
                logger.warning('could not remove "%s"; the next start will', path)

    def _retire(self, current: str) -> list[Path]:
        """Renames old checkpoints, so that none is seen half removed; returns the new paths."""
        doomed = []
        with self._attempt.held():
            ours = [
                found.record
                for found in sorted(
                    self._complete(self._names()), key=lambda found: found.order, reverse=True
                )
                if found.record.lineage == self._attempt.lineage
            ]
            best = [record.name for record in ours if record.best]
            kept = {current, *(record.name for record in ours[: self._keep]), *best[:1]}
            with translated("remove old checkpoints", self.directory):
                for record in ours:
                    if record.name not in kept:
                        path = temporary_path(self.directory, record.name, self._attempt.token)
                        self._disk.rename_new(self.directory / record.name, path)
                        doomed.append(path)
                if doomed:
                    self._disk.sync_directory(self.directory)
        return doomed


def _free_name(step: int, names: list[str]) -> str:
    """Returns the first name of a step that nothing has."""
    name = base = f"step-{step:010d}"
    suffix = 1
    while name in names:
        suffix += 1
        name = f"{base}-{suffix}"
    return name
