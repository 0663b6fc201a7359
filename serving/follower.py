"""Watching for new versions: fetch, load, and promote as the policy says.

    latest    the highest name that arrives, unless a version is pinned or a higher one was
              promoted before (so that a rollback stays)
    pinned    the one version that `--pin` names
    manual    nothing; new versions are loaded and wait for a command

Versions are published by a rename, so whatever has a version's name is whole.
"""

import logging
import threading
import time
from pathlib import Path

from features.errors import MuxtableError
from serving.coordinator import Coordinator
from serving.settings import ServeSettings
from serving.sources import DirectorySource, ObjectSource, ServiceSource, Source
from storage.places import ObjectPath, place_of

logger = logging.getLogger(__name__)

# A version that could not be taken over is left alone for so long, and lower ones are looked at.
_RETRY_S = 30.0


def first_version(settings: ServeSettings, coordinator: Coordinator) -> str | None:
    """Returns what a directory starts with in which nothing was in force yet."""
    if settings.policy == "pinned":
        return settings.pin if (settings.directory / str(settings.pin)).is_dir() else None
    return None if settings.policy == "manual" else coordinator.newest()


class Follower:
    """A thread that looks for new versions until it is stopped."""

    def __init__(self, settings: ServeSettings, coordinator: Coordinator, source: Source) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._source = source
        self._refused: dict[str, float] = {}
        """Versions that could not be taken over -> when to try them again."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: ServeSettings, coordinator: Coordinator) -> "Follower | None":
        """Returns the follower that the settings ask for, if they ask for one."""
        if settings.follow is None:
            return None
        directory = Path(settings.follow)
        source: Source
        if "://" in settings.follow:
            place = place_of(settings.follow, Path())
            assert isinstance(place, ObjectPath)  # noqa: S101  no folder has a :// in it
            source = ObjectSource(place, settings.directory)
        elif ":" in settings.follow and not directory.exists():
            source = ServiceSource(settings)
        else:
            source = DirectorySource(directory, settings.directory)
        return cls(settings, coordinator, source)

    def stop(self) -> None:
        """Ends the thread; a download that is under way is given up."""
        self._stopped.set()
        self._source.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._look()
            except MuxtableError as exc:
                logger.warning("following %s: %s", self._settings.follow, exc)
            except Exception:
                logger.exception("following %s failed", self._settings.follow)
            self._stopped.wait(self._settings.poll_s)

    def _look(self) -> None:
        if self._is_content():
            return
        name = self._wanted(self._source.names())
        if name is None or self._stopped.is_set():
            return
        try:
            self._source.fetch(name, self._stopped)
            if self._settings.policy == "manual":
                self._coordinator.load(name)
            else:
                self._coordinator.promote(name, load=True)
        except MuxtableError as exc:
            if not self._stopped.is_set():
                logger.warning("version %s is not taken over: %s", name, exc)
            self._refused[name] = time.monotonic() + _RETRY_S

    def _is_content(self) -> bool:
        """Whether no name would be taken over: a bucket need not be asked for its names."""
        promotions = self._coordinator.promotions
        if self._settings.policy == "pinned":
            return promotions.current == self._settings.pin
        return bool(promotions.pinned)

    def _wanted(self, names: list[str]) -> str | None:
        """Returns the version to take over next, if there is one."""
        promotions = self._coordinator.promotions
        now = time.monotonic()
        names = [name for name in names if self._refused.get(name, 0) < now]
        if self._settings.policy == "pinned":
            return self._settings.pin if self._settings.pin in names else None
        known = {*self._coordinator.loaded, promotions.current}
        fresh = [name for name in names if name > promotions.newest and name not in known]
        return max(fresh, default=None)
