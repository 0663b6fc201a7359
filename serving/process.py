"""A service in one process: everything from the directory of versions to the ports."""

import logging
import time
from typing import Self

from native import memory
from serving.coordinator import Coordinator
from serving.follower import Follower, first_version
from serving.health import HealthPort, MetricsPort
from serving.metrics import Metrics, page_of
from serving.server import METHODS, Server
from serving.settings import ServeSettings
from serving.versions import Versions

logger = logging.getLogger(__name__)


class Service:
    """Starts when it is made; `drain` ends it as a caller wants it ended."""

    def __init__(self, settings: ServeSettings) -> None:
        """Raises ConfigError, SnapshotError or CodecError for what cannot be served, and
        UnavailableError for a port that is taken."""
        settings.check()
        memory.tune_allocator()
        self.settings = settings
        self._health: HealthPort | None = None
        self._metrics_port: MetricsPort | None = None
        self._follower: Follower | None = None
        self._is_draining = False
        settings.directory.mkdir(parents=True, exist_ok=True)
        self.versions = Versions(settings.directory, settings.limits)
        self.coordinator = Coordinator(settings.directory)
        self.coordinator.replicas.append(self.versions)
        self._metrics = None if settings.metrics_port is None else Metrics(METHODS)
        self._server = Server(settings, self.versions, self.coordinator, self._metrics)
        try:
            self.port = self._server.start()
            self._open_ports()
            self.coordinator.start(first_version(settings, self.coordinator))
            self._follower = Follower.of(settings, self.coordinator)
        except BaseException:
            self.close()
            raise

    @property
    def health_port(self) -> int | None:
        """The port of grpc.health.v1."""
        return None if self._health is None else self._health.port

    @property
    def metrics_port(self) -> int | None:
        """The port of GET /metrics."""
        return None if self._metrics_port is None else self._metrics_port.port

    @property
    def is_ready(self) -> bool:
        """Whether lookups are answered and go on to be."""
        return self.versions.is_ready and not self._is_draining

    def drain(self) -> None:
        """Says NOT_SERVING, then refuses calls, and returns when those under way have ended."""
        self._is_draining = True
        self._tell()
        time.sleep(self.settings.drain_s)
        self.close(self.settings.grace_s)

    def close(self, grace_s: float = 0.0) -> None:
        """Ends; calls under way have `grace_s` seconds."""
        self._is_draining = True
        if self._follower is not None:
            self._follower.stop()
        self._server.stop(grace_s)
        self.versions.on_change = lambda: None
        self.versions.close()
        for port in (self._health, self._metrics_port):
            if port is not None:
                port.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_ports(self) -> None:
        settings = self.settings
        if settings.health_port is not None:
            self._health = HealthPort(settings.host, settings.health_port)
        if settings.metrics_port is not None and self._metrics is not None:
            self._metrics_port = MetricsPort(
                settings.host,
                settings.metrics_port,
                page_of(self._metrics.registry),
                lambda: self.is_ready,
            )
        self.versions.on_change = self._tell
        self._tell()

    def _tell(self) -> None:
        """Shows on the other ports what has changed."""
        if self._health is not None:
            self._health.set_ready(self.is_ready)
        if self._metrics is not None:
            self._metrics.tell(self.versions)
