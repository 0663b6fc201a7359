"""AdminService: calls that change which version answers, handed to whoever coordinates that."""

from typing import Any, Protocol

from features.errors import DataError
from serving.stubs import admin_pb2 as pb
from serving.versions import Versions
from storage.versions import is_version


class Operations(Protocol):
    """What an operator can do; `serving.coordinator.Coordinator`, or the end of a channel to it."""

    def load(self, name: str, label: str = "") -> None:
        """Makes a version available."""

    def promote(self, name: str, *, load: bool = False, other_features: bool = False) -> None:
        """Puts a version in force."""

    def rollback(self) -> None:
        """Puts the version before in force."""

    def pin(self, name: str) -> None:
        """Keeps the current version in force."""

    def unload(self, name: str) -> None:
        """Lets go of a version."""


class AdminService:
    """Every call returns when all processes of the service have done it."""

    def __init__(self, operations: Operations, versions: Versions) -> None:
        self._operations = operations
        self._versions = versions

    def load(self, request: pb.LoadRequest, context: Any) -> bytes:
        """Verifies and warms a version."""
        del context
        self._operations.load(_named(request.version), request.label)
        return self._reply()

    def promote(self, request: pb.PromoteRequest, context: Any) -> bytes:
        """Puts a loaded version in force."""
        del context
        self._operations.promote(
            _named(request.version), other_features=request.allow_other_features
        )
        return self._reply()

    def rollback(self, request: pb.RollbackRequest, context: Any) -> bytes:
        """Puts the version before the current one in force."""
        del request, context
        self._operations.rollback()
        return self._reply()

    def pin(self, request: pb.PinRequest, context: Any) -> bytes:
        """Pins the current version, or lets go of it."""
        del context
        self._operations.pin(_named(request.version) if request.version else "")
        return self._reply()

    def unload(self, request: pb.UnloadRequest, context: Any) -> bytes:
        """Lets go of a version."""
        del context
        self._operations.unload(_named(request.version))
        return self._reply()

    def _reply(self) -> bytes:
        return pb.AdminReply(stamp=self._versions.describe().stamp).SerializeToString()


def _named(name: str) -> str:
    if not is_version(name):
        raise DataError(
            f"{name[:80]!r} is no name of a version", "`muxtable versions` lists what there is"
        )
    return name
