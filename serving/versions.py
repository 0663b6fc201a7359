"""The versions that one process holds, and the one of them that is in force.

    START -> LOADING -> AVAILABLE -> DRAINING -> END

A call takes hold of one version and keeps it to its end; a promotion replaces one reference. What
nobody holds any more is closed by a thread of its own: unmapping gigabytes takes milliseconds that
no call should wait for.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from features.errors import (
    MuxtableError,
    NotFoundError,
    SnapshotError,
    StateError,
    UnavailableError,
)
from serving.status import texts_of
from serving.stubs import parameter_pb2 as pb
from serving.table import Limits, Stamp, Table
from serving.warming import touch
from storage.fsops import DISK, read_all
from storage.manifest import MAX_MANIFEST_BYTES
from storage.names import MANIFEST
from storage.snapshot import open_snapshot
from storage.versions import is_version

logger = logging.getLogger(__name__)

CURRENT = "current"
PREVIOUS = "previous"
# Threads that verify a version.
_MOST_THREADS = 4
# Versions that ended are listed until there are so many of them.
_MOST_ENDED = 32
# A promotion reaches all processes within moments; a client that has seen it waits so long.
_PROMOTION_PATIENCE_S = 2.0

State = int


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """A version in this process."""

    name: str
    state: State = pb.STATE_START
    error: str = ""
    digest: bytes = b""
    table: Table | None = None
    manifest: bytes = b""
    directory: int = -1
    """Descriptor of its directory: what was removed from it can still be sent."""
    stamp: Stamp | None = None
    """What the last call said of it; a promotion makes a new one."""
    calls: int = 0
    """Calls that use it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Force:
    """What is in force, as the owner of the directory says."""

    version: str = ""
    previous: str = ""
    counter: int = 0
    pinned: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    """Label -> version."""


class Versions:
    """The versions of one process; safe for any number of threads."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.directory = directory
        self.limits = limits
        self.num_failures = 0
        """Loads that failed."""
        self.on_change: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._generation = 0
        self._held: dict[str, Held] = {}
        self._force = Force()
        self._closing: list[Held] = []
        self._is_closed = False
        self._janitor = threading.Thread(target=self._sweep, name="versions", daemon=True)
        self._janitor.start()

    @property
    def force(self) -> Force:
        """What is in force now."""
        return self._force

    @property
    def is_ready(self) -> bool:
        """Whether lookups are answered."""
        held = self._held.get(self._force.version)
        return held is not None and held.state == pb.STATE_AVAILABLE

    @property
    def num_available(self) -> int:
        """How many versions answer lookups."""
        return sum(held.state == pb.STATE_AVAILABLE for held in list(self._held.values()))

    def load(self, name: str, *, verify: bool = True, digest: str | None = None) -> str:
        """Opens, verifies and warms a version; returns its digest. Loading it again is no work.

        Raises NotFoundError where there is none of that name, SnapshotError or CodecError where it
        is not sound, StateError while another thread is at it.
        """
        with self._changed:
            held = self._held.get(name)
            if held is not None and held.state == pb.STATE_AVAILABLE:
                return held.digest.hex()
            if held is not None and held.state in (pb.STATE_LOADING, pb.STATE_DRAINING):
                raise StateError(
                    f"version {name} is {state_name(held.state)}", "wait until it is done"
                )
            if not is_version(name) or not (self.directory / name).is_dir():
                raise NotFoundError(
                    f"there is no version {name[:80]!r}", "`muxtable versions` lists what there is"
                )
            held = Held(name=name, state=pb.STATE_LOADING)
            self._held[name] = held
            self._tell()
        try:
            self._open(held, verify, digest)
        except BaseException as exc:
            with self._changed:
                held.state = pb.STATE_END
                held.error = texts_of(exc)[0] if isinstance(exc, MuxtableError) else repr(exc)
                self.num_failures += 1
                self._tell()
            raise
        with self._changed:
            held.state = pb.STATE_AVAILABLE
            self._tell()
        return held.digest.hex()

    def digest(self, name: str) -> str:
        """Returns the digest of an available version; raises StateError or NotFoundError."""
        with self._changed:
            return self._available(name).digest.hex()

    def switch(self, force: Force) -> None:
        """Puts a version in force, which must be available; raises StateError otherwise."""
        with self._changed:
            if force.version:
                self._available(force.version)
            self._force = force
            self._tell()

    def unload(self, name: str) -> None:
        """Lets go of a version once its calls have ended; raises StateError for the current one."""
        with self._changed:
            if name == self._force.version:
                raise StateError(f"version {name} is in force", "promote another one first")
            held = self._available(name)
            held.state = pb.STATE_DRAINING
            self._closing.append(held)
            self._tell()

    @contextmanager
    def using(self, choice: pb.Choice, deadline_s: float | None) -> Iterator[tuple[Held, Stamp]]:
        """Holds the version that a request chose for the time of a call.

        Raises NotFoundError for one there is not, StateError for one that is not available, and
        UnavailableError where none is in force, or none as new as the client has seen.
        """
        held, stamp = self.take(choice, deadline_s)
        try:
            yield held, stamp
        finally:
            self.give_back(held)

    def take(self, choice: pb.Choice, deadline_s: float | None) -> tuple[Held, Stamp]:
        """Takes hold of a version as `using` does, until `give_back`."""
        with self._changed:
            if choice.min_counter > self._force.counter:
                self._await_promotion(choice.min_counter, deadline_s)
            held = self._available(self._resolve(choice.version))
            held.calls += 1
            stamp, counter = held.stamp, self._force.counter
            if stamp is None or stamp.counter != counter:
                stamp = Stamp(version=held.name, digest=held.digest, counter=counter)
                held.stamp = stamp
        return held, stamp

    def give_back(self, held: Held) -> None:
        """Ends what `take` began."""
        with self._changed:
            held.calls -= 1
            if held.calls == 0 and held.state == pb.STATE_DRAINING:
                self._changed.notify_all()

    def named(self, name: str) -> Held:
        """Returns a version by its name, which the caller does not hold."""
        with self._changed:
            return self._available(name)

    def describe(self) -> pb.ListVersionsReply:
        """Returns all versions as a message."""
        with self._changed:
            return self._describe()

    def changes(self, is_wanted: Callable[[], bool]) -> Iterator[pb.ListVersionsReply]:
        """Yields all versions now, and again after each change, until nobody wants them."""
        seen = -1
        while is_wanted():
            with self._changed:
                if self._generation == seen and not self._is_closed:
                    self._changed.wait(0.5)
                if self._is_closed:
                    return
                if self._generation == seen:
                    continue
                seen, reply = self._generation, self._describe()
            yield reply

    def close(self) -> None:
        """Ends the thread and all who watch."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._janitor.join()

    def _open(self, held: Held, verify: bool, digest: str | None) -> None:
        began = time.monotonic()
        threads = verifying_threads(is_serving=self.is_ready)
        snapshot = open_snapshot(self.directory / held.name, verify, digest, threads=threads)
        try:
            if snapshot.name != held.name:
                raise StateError(
                    f"version {held.name} says that it is {snapshot.name}",
                    "versions are not renamed: give it back its name",
                )
            touch(snapshot.rows)
            held.directory = DISK.open_directory(snapshot.path)
            held.manifest = _manifest(held.directory, snapshot.digest)
        except BaseException:
            snapshot.close()
            raise
        held.digest = bytes.fromhex(snapshot.digest)
        held.table = Table(snapshot, self.limits)
        logger.info("version %s is ready after %.2f s", held.name, time.monotonic() - began)

    def _await_promotion(self, counter: int, deadline_s: float | None) -> None:
        # Half of what is left, so that the caller hears of it and can try again.
        patience = min(_PROMOTION_PATIENCE_S, (deadline_s or 60.0) / 2)
        if not self._changed.wait_for(lambda: self._force.counter >= counter, patience):
            raise UnavailableError(
                f"this process is at promotion {self._force.counter}, and the caller has seen"
                f" {counter}",
                "try again; another process of the service is further",
            )

    def _resolve(self, name: str) -> str:
        force = self._force
        if name in ("", CURRENT):
            if not force.version:
                raise UnavailableError("no version is in force yet", "promote one, or wait")
            return force.version
        if name == PREVIOUS:
            if not force.previous:
                raise NotFoundError("there is no previous version", "name one, or leave it out")
            return force.previous
        return force.labels.get(name, name)

    def _available(self, name: str) -> Held:
        held = self._held.get(name)
        if held is None:
            if is_version(name) and (self.directory / name).is_dir():
                raise StateError(f"version {name} is {state_name(pb.STATE_START)}", "load it first")
            raise NotFoundError(
                f"there is no version {name[:80]!r}", "`muxtable versions` lists what there is"
            )
        if held.state != pb.STATE_AVAILABLE:
            reason = f": {held.error}" if held.error else ""
            raise StateError(
                f"version {name} is {state_name(held.state)}{reason}", "use one that is available"
            )
        return held

    def _describe(self) -> pb.ListVersionsReply:
        force = self._force
        current = self._held.get(force.version)
        reply = pb.ListVersionsReply(pinned=force.pinned)
        if current is not None:
            reply.stamp.CopyFrom(
                pb.Stamp(version=force.version, digest=current.digest, counter=force.counter)
            )
        labels: dict[str, list[str]] = {}
        for label, name in (
            (CURRENT, force.version),
            (PREVIOUS, force.previous),
            *sorted(force.labels.items()),
        ):
            labels.setdefault(name, []).append(label)
        for held in sorted(self._held.values(), key=lambda each: each.name):
            reply.versions.add(
                name=held.name,
                digest=held.digest,
                state=held.state,
                error=held.error,
                labels=labels.get(held.name, ()),
            )
        return reply

    def _tell(self) -> None:
        """Tells who waits that something changed; the lock is held."""
        self._generation += 1
        ended = [held for held in self._held.values() if held.state == pb.STATE_END]
        for held in ended[: max(len(ended) - _MOST_ENDED, 0)]:
            del self._held[held.name]
        self._changed.notify_all()
        self.on_change()

    def _sweep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closed or any(held.calls == 0 for held in self._closing)
                )
                if self._is_closed:
                    return
                idle = [held for held in self._closing if held.calls == 0]
                for held in idle:
                    self._closing.remove(held)
            for held in idle:
                _close(held)
            with self._changed:
                for held in idle:
                    held.state = pb.STATE_END
                self._tell()


def _manifest(directory: int, digest: str) -> bytes:
    descriptor = DISK.open_file(MANIFEST, directory)
    try:
        data = bytearray(MAX_MANIFEST_BYTES)
        del data[read_all(DISK, descriptor, memoryview(data), 0) :]
    finally:
        DISK.close(descriptor)
    if hashlib.sha256(data).hexdigest() != digest:
        raise SnapshotError(
            f"{MANIFEST} changed while it was read", "nothing may write into a version; load again"
        )
    return bytes(data)


def _close(held: Held) -> None:
    table, held.table = held.table, None
    if table is not None:
        table.snapshot.close()
    if held.directory >= 0:
        DISK.close(held.directory)
        held.directory = -1


def verifying_threads(*, is_serving: bool) -> int:
    """Returns how many threads verify a version.

    While another one answers, a core is left to it: hashing would take them all.
    """
    cores = len(os.sched_getaffinity(0)) - int(is_serving)
    return max(1, min(cores, _MOST_THREADS))


def state_name(state: State) -> str:
    """Returns what a state is called: START, LOADING, AVAILABLE, DRAINING or END."""
    return pb.State.Name(state).removeprefix("STATE_")
