"""Which checkpoints of a directory stay: the newest ones, the best, and those of other lineages."""

import logging
from collections.abc import Sequence
from pathlib import Path

from features.errors import SnapshotError
from storage.attempts import Attempt
from storage.fsops import Disk, remove_quietly, translated
from storage.names import temporary_path
from trainer.latest import NAME, Complete, look_at

logger = logging.getLogger(__name__)


def kept_names(
    complete: Sequence[Complete], current: str, keep: int, lineage: str
) -> frozenset[str]:
    """Returns which checkpoints stay, `current` being the one in force.

    The newest `keep` and the newest that was the best, those of another lineage, and the base of
    every delta that stays.
    """
    newest = sorted(complete, key=lambda found: found.order, reverse=True)
    ours = [found.record for found in newest if found.record.lineage == lineage]
    kept = {current, *(record.name for record in ours[:keep])}
    kept |= {record.name for record in [each for each in ours if each.best][:1]}
    kept |= {found.record.name for found in complete if found.record.lineage != lineage}
    bases = {found.base for found in complete if found.base and found.record.name in kept}
    return frozenset(kept | bases)


class Retention:
    """The checkpoints of a directory as the process sees them that writes there."""

    def __init__(self, directory: Path, keep: int, attempt: Attempt) -> None:
        self._directory = directory
        self._keep = keep
        self._attempt = attempt
        self._known: dict[str, Complete | None] = {}

    def free_name(self, step: int, disk: Disk) -> str:
        """Returns the first name of a step that nothing has."""
        names = self._names(disk)
        name = base = f"step-{step:010d}"
        suffix = 1
        while name in names:
            suffix += 1
            name = f"{base}-{suffix}"
        return name

    def last_promotion(self, disk: Disk) -> int:
        """Returns the highest promotion of a complete checkpoint, 0 where there is none."""
        return max((found.record.promotion for found in self._complete(disk)), default=0)

    def prune(self, current: str, disk: Disk) -> None:
        """Removes what is neither among the newest, nor the best, nor of another lineage."""
        try:
            doomed = self._retire(current, disk)
        except SnapshotError as exc:
            logger.warning("old checkpoints stay: %s", exc)
            return
        for path in doomed:
            if not remove_quietly(disk, path):
                logger.warning('could not remove "%s"; the next start will', path)

    def _names(self, disk: Disk) -> list[str]:
        with translated("list the checkpoints", self._directory):
            return disk.names(self._directory)

    def _complete(self, disk: Disk) -> list[Complete]:
        """Returns the complete checkpoints; each is looked at once."""
        names = self._names(disk)
        fresh = {name: self._known[name] for name in names if name in self._known}
        for name in names:
            if name not in fresh and NAME.fullmatch(name):
                fresh[name] = look_at(self._directory / name, disk)
        self._known = fresh
        return [found for found in fresh.values() if found is not None]

    def _retire(self, current: str, disk: Disk) -> list[Path]:
        """Renames old checkpoints, so that none is seen half removed; returns the new paths."""
        doomed = []
        with self._attempt.held():
            complete = self._complete(disk)
            kept = kept_names(complete, current, self._keep, self._attempt.lineage)
            # Deltas first: a crash must not leave one without its base.
            doomed_names = sorted(
                (found.base is None, found.record.name)
                for found in complete
                if found.record.name not in kept
            )
            with translated("remove old checkpoints", self._directory):
                for _, name in doomed_names:
                    path = temporary_path(self._directory, name, self._attempt.token)
                    disk.rename_new(self._directory / name, path)
                    doomed.append(path)
                if doomed:
                    disk.sync_directory(self._directory)
        return doomed
