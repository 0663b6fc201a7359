"""Where a follower finds versions: a directory, an object store, or another parameter service."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from features.errors import SnapshotError, UnavailableError
from serving.replication import copy_version, fetch_version, write_copy
from serving.settings import ServeSettings
from serving.stubs import parameter_pb2 as pb
from serving.wire import Wire
from storage.object_versions import ObjectVersions
from storage.places import ObjectPath
from storage.versions import version_names


class Source(Protocol):
    """A place with versions."""

    def names(self) -> list[str]:
        """Returns the names of the versions there are, sorted."""

    def fetch(self, name: str, stopped: threading.Event) -> None:
        """Brings a version into the service's own directory, whole and verified."""

    def close(self) -> None:
        """Gives up what is under way."""


class DirectorySource:
    """A directory of versions: the service's own, or one they are copied from."""

    def __init__(self, directory: Path, target: Path) -> None:
        self._directory = directory
        self._target = target
        self._is_same = directory.resolve() == target.resolve()

    def names(self) -> list[str]:
        """Returns the names of its versions."""
        return version_names(self._directory)

    def fetch(self, name: str, stopped: threading.Event) -> None:
        """Copies a version, unless it is where it should be."""
        if not self._is_same and not (self._target / name).exists():
            copy_version(self._directory / name, self._target, stopped)

    def close(self) -> None:
        """Has nothing to give up."""


class ObjectSource:
    """A prefix of an object store, as `muxtable export --out s3://...` writes it."""

    def __init__(self, place: ObjectPath, target: Path) -> None:
        self._versions = ObjectVersions(place)
        self._target = target

    def names(self) -> list[str]:
        """Returns the names of its versions."""
        return self._versions.names()

    def fetch(self, name: str, stopped: threading.Event) -> None:
        """Downloads a version object by object."""
        if (self._target / name).exists():
            return

        def pieces(file: str, offset: int) -> Iterator[bytes]:
            try:
                yield from self._versions.pieces(name, file, offset)
            except SnapshotError as exc:  # goes on where it was, a bounded number of times
                raise UnavailableError(exc.what, exc.fix) from exc

        write_copy(self._target, name, self._versions.manifest(name), pieces, stopped)

    def close(self) -> None:
        """Has nothing to give up: what is under way looks at `stopped` itself."""


class ServiceSource:
    """Another parameter service, which serves its files by FetchShard."""

    def __init__(self, settings: ServeSettings) -> None:
        token = settings.follow_token
        self._target = settings.directory
        self._wire = Wire(
            str(settings.follow),
            token=token.read_text().strip() if token else None,
            ca=settings.follow_ca.read_bytes() if settings.follow_ca else None,
        )

    def names(self) -> list[str]:
        """Returns the names of the versions it answers with."""
        reply = self._wire.list_versions(timeout_s=10)
        ready = (each for each in reply.versions if each.state == pb.STATE_AVAILABLE)
        return sorted(each.name for each in ready)

    def fetch(self, name: str, stopped: threading.Event) -> None:
        """Fetches a version file by file."""
        if not (self._target / name).exists():
            fetch_version(self._wire, name, self._target, stopped)

    def close(self) -> None:
        """Closes the connection, which ends a download."""
        self._wire.close()
