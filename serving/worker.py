"""One of several processes behind a port, told what to do by its supervisor.

`python -m serving.worker FD`, FD being its end of the channel. It ends when the supervisor says so,
and when the supervisor is gone.
"""

import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from typing import Any

from native import memory
from serving.channel import Channel
from serving.metrics import Metrics
from serving.server import METHODS, Server
from serving.settings import ServeSettings
from serving.versions import Force, Versions

logger = logging.getLogger(__name__)

# As long as verifying and reading the largest version may take.
PATIENCE_S = 3600.0
_SWITCH_S = 60.0


class RemoteReplica:
    """A worker, as the coordinator sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def load(self, name: str, *, verify: bool = True, digest: str | None = None) -> str:
        """Makes a version available in the worker; returns its digest."""
        arguments = {"name": name, "verify": verify, "digest": digest}
        return str(self._channel.call("load", PATIENCE_S, **arguments))

    def digest(self, name: str) -> str:
        """Returns the digest of an available version."""
        return str(self._channel.call("digest", _SWITCH_S, name=name))

    def switch(self, force: Force) -> None:
        """Puts an available version in force."""
        self._channel.call("switch", _SWITCH_S, force=asdict(force))

    def unload(self, name: str) -> None:
        """Lets go of a version."""
        self._channel.call("unload", _SWITCH_S, name=name)


class RemoteOperations:
    """The coordinator, as a worker sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def load(self, name: str, label: str = "") -> None:
        """Makes a version available in every process."""
        self._channel.call("load", PATIENCE_S, name=name, label=label)

    def promote(self, name: str, *, load: bool = False, other_features: bool = False) -> None:
        """Puts a version in force in every process."""
        arguments = {"name": name, "load": load, "other_features": other_features}
        self._channel.call("promote", PATIENCE_S, **arguments)

    def rollback(self) -> None:
        """Puts the version before in force in every process."""
        self._channel.call("rollback", PATIENCE_S)

    def pin(self, name: str) -> None:
        """Keeps the current version in force."""
        self._channel.call("pin", _SWITCH_S, name=name)

    def unload(self, name: str) -> None:
        """Lets go of a version in every process."""
        self._channel.call("unload", _SWITCH_S, name=name)


class Worker:
    """The worker's own side: versions and a server, driven over the channel."""

    def __init__(self, end: socket.socket) -> None:
        self._ended = threading.Event()
        self._settings: ServeSettings | None = None
        self._versions: Versions | None = None
        self._server: Server | None = None
        self._grace_s = 0.0
        self._channel = Channel(
            end,
            {
                "prepare": self._prepare,
                "listen": self._listen,
                "load": lambda **arguments: self._held.load(**arguments),
                "digest": lambda name: self._held.digest(name),
                "switch": lambda force: self._held.switch(Force(**force)),
                "unload": lambda name: self._held.unload(name),
                "drain": self._drain,
            },
            self._ended.set,
        )
        self._channel.start()

    def run(self) -> None:
        """Returns when it has ended."""
        self._ended.wait()
        if self._server is not None:
            self._server.stop(self._grace_s)
        if self._versions is not None:
            self._versions.on_change = lambda: None
            self._versions.close()
        self._channel.close()

    @property
    def _held(self) -> Versions:
        assert self._versions is not None  # noqa: S101  prepared first
        return self._versions

    def _prepare(self, settings: dict[str, Any]) -> None:
        self._settings = ServeSettings.model_validate(settings)
        self._grace_s = self._settings.grace_s
        self._versions = versions = Versions(self._settings.directory, self._settings.limits)
        metrics = None
        if self._settings.metrics_port is not None:
            metrics = numbers = Metrics(METHODS)
            versions.on_change = lambda: numbers.tell(versions)
            numbers.tell(versions)
        self._server = Server(
            self._settings, versions, RemoteOperations(self._channel), metrics, reuse_port=True
        )

    def _listen(self, port: int) -> None:
        assert self._server is not None  # noqa: S101  prepared first
        self._server.start(port)

    def _drain(self) -> None:
        self._ended.set()


def main() -> None:
    """Runs a worker on the channel whose descriptor is the first argument."""
    # The supervisor decides about both: it drains its workers before it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    memory.tune_allocator()
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()
    # Threads of gRPC need not be waited for: all calls have ended.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
