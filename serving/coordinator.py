"""Decides which version is in force, in every process of a service and over restarts.

A promotion is written to disk, then made in each process; when it returns, all of them have it. A
process that dies meanwhile is started again with what is in force then.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from features.errors import MuxtableError, StateError, UnavailableError
from serving.promotions import Promotions, read_promotions, write_promotions
from serving.versions import Force, verifying_threads
from storage.snapshot import open_snapshot
from storage.versions import version_names

logger = logging.getLogger(__name__)

# Versions below the current one that stay loaded, so that a rollback is one switch.
KEPT = 1


class Replica(Protocol):
    """A process that answers lookups, or the end of a channel to one."""

    def load(self, name: str, *, verify: bool = True, digest: str | None = None) -> str:
        """Makes a version available; returns its digest."""

    def digest(self, name: str) -> str:
        """Returns the digest of an available version; raises where it is none."""

    def switch(self, force: Force) -> None:
        """Puts an available version in force."""

    def unload(self, name: str) -> None:
        """Lets go of a version that is not in force."""


class Coordinator:
    """The owner of a directory of versions; one call at a time changes anything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.replicas: list[Replica] = []
        self.loaded: list[str] = []
        """The versions that every replica holds, in the order they were loaded."""
        self._retired: set[str] = set()
        """Those of them that were in force, and are kept for a rollback or for nothing."""
        self._shapes: dict[str, Sequence[tuple[str, int, int]]] = {}
        self._lock = threading.RLock()
        self._promotions = read_promotions(directory)

    @property
    def promotions(self) -> Promotions:
        """What is in force, and was before."""
        return self._promotions

    @property
    def force(self) -> Force:
        """What the replicas are told."""
        promotions = self._promotions
        return Force(
            version=promotions.current,
            previous=promotions.previous,
            counter=promotions.counter,
            pinned=promotions.pinned,
            labels=dict(promotions.labels),
        )

    def start(self, first: str | None) -> None:
        """Puts in force again what was when the service ended, or else the version `first`.

        Raises SnapshotError or CodecError where it is damaged: nothing else is served instead.
        """
        with self._lock:
            name = self._promotions.current
            if name:
                self._load(name, self._promotions.digest)
                self._switch(self._promotions)
            elif first is not None:
                self.promote(first, load=True)

    def add(self, replica: Replica) -> None:
        """Brings a process to where the others are, and counts it in."""
        with self._lock:
            for name in self.loaded:
                replica.load(name, verify=False)
            if self._promotions.current in self.loaded:
                replica.switch(self.force)
            self.replicas.append(replica)

    def remove(self, replica: Replica) -> None:
        """Forgets a process that has ended."""
        with self._lock:
            if replica in self.replicas:
                self.replicas.remove(replica)

    def load(self, name: str, label: str = "") -> None:
        """Makes a version available in every process, under a label where one is given."""
        with self._lock:
            labelled = self._promotions.labelled(label, name) if label else None
            self._load(name)
            if labelled is not None:
                write_promotions(self.directory, labelled)
                self._switch(labelled)

    def promote(self, name: str, *, load: bool = False, other_features: bool = False) -> None:
        """Puts a version in force; returns when every process has done it.

        Raises StateError where it is not loaded, or has other features than the current one.
        """
        with self._lock:
            if load:
                self._load(name)
            digest = self._digest(name)
            if not other_features:
                self._check_features(name)
            self._commit(self._promotions.promoted(name, digest))

    def rollback(self) -> None:
        """Puts the version in force that was before the current one."""
        with self._lock:
            target = self._promotions.rolled_back()
            self._load(target.current, target.digest)
            self._commit(replace(target, pinned=""))

    def pin(self, name: str) -> None:
        """Keeps the current version in force; "" lets go."""
        with self._lock:
            pinned = self._promotions.pinned_to(name)
            write_promotions(self.directory, pinned)
            self._switch(pinned)

    def unload(self, name: str) -> None:
        """Lets go of a version that is not in force, in every process."""
        with self._lock:
            if name == self._promotions.current:
                raise StateError(f"version {name} is in force", "promote another one first")
            self._digest(name)
            self._unload(name)

    def newest(self) -> str | None:
        """Returns the highest version in the directory, None where there is none."""
        names = version_names(self.directory)
        return names[-1] if names else None

    def _digest(self, name: str) -> str:
        return self._each(lambda replica: replica.digest(name))[0]

    def _load(self, name: str, digest: str | None = None) -> str:
        if name in self.loaded:
            return self._digest(name)
        if len(self.replicas) > 1:
            # Verified once, here; the processes then only map it.
            threads = verifying_threads(is_serving=bool(self.loaded))
            path = self.directory / name
            with open_snapshot(path, True, digest, threads=threads) as snapshot:
                digest = snapshot.digest
        is_checked = len(self.replicas) > 1
        try:
            digests = self._each(
                lambda replica: replica.load(name, verify=not is_checked, digest=digest)
            )
        except MuxtableError:
            self._unload(name)
            raise
        self.loaded.append(name)
        return digests[0]

    def _commit(self, promotions: Promotions) -> None:
        left = self._promotions.current
        write_promotions(self.directory, promotions)
        self._switch(promotions)
        self._retire(left)

    def _switch(self, promotions: Promotions) -> None:
        self._promotions = promotions
        force = self.force
        self._each(lambda replica: replica.switch(force))
        logger.info("version %s is in force (promotion %d)", force.version, force.counter)

    def _retire(self, left: str) -> None:
        """Lets go of versions that were in force, but for what a rollback needs and what `left`."""
        stack = [name for name, _ in self._promotions.stack]
        keep = {*stack[-1 - KEPT :], *self._promotions.labels.values(), left}
        self._retired.add(left)
        for name in self._retired - keep:
            self._retired.remove(name)
            self._unload(name)

    def _unload(self, name: str) -> None:
        if name in self.loaded:
            self.loaded.remove(name)
        self._shapes.pop(name, None)
        for replica in list(self.replicas):
            try:
                replica.unload(name)
            except MuxtableError as exc:  # it never held it, or it is lost
                logger.debug("%s", exc)

    def _check_features(self, name: str) -> None:
        current = self._promotions.current
        if not current or current == name:
            return
        if self._shape(current) != self._shape(name):
            raise StateError(
                f"version {name} has other features, lookups or width than {current}",
                "promote it with allow_other_features once the clients know them",
            )

    def _shape(self, name: str) -> Sequence[tuple[str, int, int]]:
        shape = self._shapes.get(name)
        if shape is None:
            with open_snapshot(self.directory / name, False) as snapshot:
                shape = [
                    (route.name, snapshot.layout.unit_width, route.width_total)
                    for route in snapshot.layout.routes
                ]
            self._shapes[name] = shape
        return shape

    def _each(self, act: Callable[[Replica], str | None]) -> list[str]:
        """Acts on every process at a time; one that is lost meanwhile is left out.

        Raises the first error of the others, when all are done.
        """
        outcomes = self._outcomes(act)
        failures = [each for each in outcomes if isinstance(each, MuxtableError)]
        for failure in failures:
            if not isinstance(failure, UnavailableError):
                raise failure
            logger.warning("a process was left out: %s", failure)
        results = [each for each in outcomes if isinstance(each, str)]
        if not results:
            raise UnavailableError("no process of the service answers", "try again in a moment")
        return results

    def _outcomes(self, act: Callable[[Replica], str | None]) -> list[str | MuxtableError]:
        def outcome(replica: Replica) -> str | MuxtableError:
            try:
                return act(replica) or ""
            except MuxtableError as exc:
                return exc

        replicas = list(self.replicas)
        if len(replicas) < 2:
            return [outcome(replica) for replica in replicas]
        with ThreadPoolExecutor(len(replicas), "replica") as pool:
            return list(pool.map(outcome, replicas))
