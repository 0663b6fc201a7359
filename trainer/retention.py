"""Which checkpoints of a run stay: the newest ones, the best, and those of other lineages."""

import logging
from collections.abc import Sequence

from features.errors import SnapshotError
from storage.depot import Depot, Tenure
from storage.fsops import DISK, Disk
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
    """The checkpoints of a depot as the process sees them that writes there."""

    def __init__(self, depot: Depot, tenure: Tenure, keep: int, disk: Disk = DISK) -> None:
        self._depot = depot
        self._tenure = tenure
        self._keep = keep
        self._disk = disk
        self._known: dict[str, Complete | None] = {}

    def last_promotion(self) -> int:
        """Returns the highest promotion of a complete checkpoint, 0 where there is none."""
        return max((found.record.promotion for found in self._complete()), default=0)

    def prune(self, current: str) -> None:
        """Removes what need not stay; an error is only logged."""
        try:
            complete = self._complete()
            kept = kept_names(complete, current, self._keep, self._tenure.lineage)
            # Deltas first: a crash must not leave one without its base.
            doomed = sorted(
                (found.base is None, found.record.name)
                for found in complete
                if found.record.name not in kept
            )
            if doomed:
                self._tenure.remove([name for _, name in doomed])
        except SnapshotError as exc:
            logger.warning("old checkpoints stay: %s", exc)

    def _complete(self) -> list[Complete]:
        """Returns the complete checkpoints; each is looked at once."""
        names = self._depot.names()
        fresh = {name: self._known[name] for name in names if name in self._known}
        for name in names:
            if name not in fresh and NAME.fullmatch(name):
                fresh[name] = look_at(self._depot.place / name, self._disk)
        self._known = fresh
        return [found for found in fresh.values() if found is not None]
