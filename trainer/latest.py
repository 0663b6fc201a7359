"""Which checkpoint of a run is in force, for whoever reads it: without a lock."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.errors import SnapshotError
from storage.bundle import Bundle, Verify, open_bundle
from storage.chain import Checkpoint, link_in, open_checkpoint
from storage.depot import depot_at
from storage.fsops import DISK, Disk
from storage.places import Place
from storage.pointer import POINTER

logger = logging.getLogger(__name__)

RECORD = "checkpoint"
NAME = re.compile(r"step-[0-9]{10,}(-[0-9]+)?")


class CheckpointRecord(BaseModel):
    """What a checkpoint says of itself: `content["checkpoint"]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    step: Annotated[int, Field(ge=0)]
    best: bool
    """Whether it was the best when it was saved."""
    promotion: Annotated[int, Field(ge=1)]
    """Rises with each save of the directory."""
    lineage: str
    attempt_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """A complete checkpoint in the directory, its contents not verified."""

    record: CheckpointRecord
    parent: str | None
    base: str | None
    """The checkpoint it is a delta on, without which it cannot be read; None for a whole one."""

    @property
    def order(self) -> tuple[int, int]:
        """Later saves have a higher one."""
        return self.record.promotion, self.record.attempt_number


# open(path, sha256 its manifest must have or None) opens a checkpoint and verifies it.
Opener = Callable[[Place, str | None], Checkpoint]


def latest_checkpoint(
    directory: Place, *, verify: Verify = True, fallback: bool = False, disk: Disk = DISK
) -> Checkpoint | None:
    """Returns the checkpoint that CURRENT names, None before the first; takes no lock.

    SnapshotError where it is not as it was written, unless `fallback` allows the newest other one
    that is, which is logged.
    """

    def open_one(path: Place, digest: str | None) -> Checkpoint:
        return open_checkpoint(path, verify, digest, disk=disk)

    return find_latest(directory, open_one, fallback=fallback, disk=disk)


def find_latest(
    directory: Place, open_one: Opener, *, fallback: bool = False, disk: Disk = DISK
) -> Checkpoint | None:
    """Does what `latest_checkpoint` does, opening with `open_one`."""
    try:
        return _in_force(directory, open_one, disk)
    except SnapshotError as exc:
        if not fallback:
            raise
        for found in newest_first(directory, disk):
            path = directory / found.record.name
            try:
                checkpoint = open_one(path, None)
            except SnapshotError as refused:
                logger.warning("passed over: %s", refused)
                continue
            logger.warning('falling back to "%s" (step %d): %s', path, found.record.step, exc.what)
            return checkpoint
        raise


def checkpoint_record(bundle: Bundle) -> CheckpointRecord:
    """Returns what a checkpoint says of itself; SnapshotError if it is no checkpoint of a run."""
    try:
        if bundle.manifest.kind == "checkpoint":
            return CheckpointRecord.model_validate(bundle.content.get(RECORD))
    except ValidationError as exc:
        raise _no_checkpoint(bundle.place) from exc
    raise _no_checkpoint(bundle.place)


def _no_checkpoint(path: Place) -> SnapshotError:
    return SnapshotError(f'"{path}" is no checkpoint of a training run', "check the path")


def _in_force(directory: Place, open_one: Opener, disk: Disk) -> Checkpoint | None:
    depot = depot_at(directory, disk)
    pointer = depot.pointer()
    while pointer is not None:
        try:
            checkpoint = open_one(directory / pointer.name, pointer.digest)
            checkpoint_record(checkpoint.bundle)
        except SnapshotError:
            # A run that is training may have moved on and removed it between the two calls.
            moved = depot.pointer()
            if moved == pointer:
                raise
            pointer = moved
        else:
            return checkpoint
    found = list(newest_first(directory, disk))
    # The first save of all has no parent, and its crash may leave it without a pointer.
    if any(complete.parent is not None for complete in found):
        raise SnapshotError(
            f'"{directory / POINTER}" is missing, but checkpoints are there',
            "restore it from a copy, or allow the newest good checkpoint to be used instead",
        )
    if found:
        logger.info('"%s" holds a first checkpoint that was not committed', directory)
    return None


def newest_first(directory: Place, disk: Disk) -> Iterator[Complete]:
    """Yields the complete checkpoints of a directory, their contents not verified."""
    names = depot_at(directory, disk).names()
    looked_at = (look_at(directory / name, disk) for name in names if NAME.fullmatch(name))
    found = [complete for complete in looked_at if complete is not None]
    yield from sorted(found, key=lambda complete: complete.order, reverse=True)


def checkpoint_places(directory: Place) -> list[Place]:
    """Returns where the checkpoints of a run lie, by step; none is opened."""
    depot = depot_at(directory)
    names = [name for name in depot.names() if NAME.fullmatch(name) and depot.has_bundle(name)]
    return [directory / name for name in names]


def look_at(path: Place, disk: Disk) -> Complete | None:
    """Returns what a directory says of itself; None unless complete and under its own name."""
    try:
        with open_bundle(path, verify=False, disk=disk) as bundle:
            record = checkpoint_record(bundle)
            parent = bundle.manifest.parent
            link = link_in(bundle)
    except SnapshotError as exc:
        logger.debug("no complete checkpoint: %s", exc)
        return None
    if record.name != path.name:
        return None
    return Complete(record=record, parent=parent, base=link.base if link else None)
