"""Several processes behind one port: started, told what is in force, replaced when they die.

The kernel deals connections to them (SO_REUSEPORT). The supervisor holds the port from the start,
so that no other service takes it and a dead process's place stays free for the next. It answers
health checks and metrics for all, and owns the directory of versions.
"""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from features.errors import MuxtableError, UnavailableError
from serving.channel import Channel, Handlers
from serving.coordinator import Coordinator
from serving.follower import Follower, first_version
from serving.health import HealthPort, MetricsPort
from serving.metrics import page_of_all
from serving.settings import ServeSettings
from serving.worker import PATIENCE_S, RemoteReplica

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_MOST_WAIT_S = 5.0


class _Process:
    """A worker process and the channel to it."""

    def __init__(self, coordinator: Coordinator, numbers: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.child = subprocess.Popen(  # noqa: S603  our own interpreter and module
                [sys.executable, "-m", "serving.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": numbers},
            )
        handlers: Handlers = {
            "load": coordinator.load,
            "promote": coordinator.promote,
            "rollback": coordinator.rollback,
            "pin": coordinator.pin,
            "unload": coordinator.unload,
        }
        self.channel = Channel(ours, handlers)
        self.replica = RemoteReplica(self.channel)
        self.channel.start()

    @property
    def has_ended(self) -> bool:
        """Whether the process is dead."""
        return self.child.poll() is not None


class Supervisor:
    """Starts when it is made; `drain` ends it as a caller wants it ended."""

    def __init__(self, settings: ServeSettings) -> None:
        """Raises what a service in one process does."""
        settings.check()
        self.settings = settings
        self._is_ending = threading.Event()
        self._processes: list[_Process] = []
        self._health: HealthPort | None = None
        self._metrics_port: MetricsPort | None = None
        self._follower: Follower | None = None
        self._watcher: threading.Thread | None = None
        settings.directory.mkdir(parents=True, exist_ok=True)
        self.coordinator = Coordinator(settings.directory)
        self._port_holder = _hold_port(settings.host, settings.port)
        self.port = int(self._port_holder.getsockname()[1])
        self._numbers = tempfile.mkdtemp(prefix="muxtable-metrics-")
        try:
            self._open_ports()
            self._processes = [self._spawn() for _ in range(settings.processes)]
            for process in self._processes:
                self._prepare(process)
                self.coordinator.replicas.append(process.replica)
            self.coordinator.start(first_version(settings, self.coordinator))
            for process in self._processes:
                process.channel.call("listen", PATIENCE_S, port=self.port)
            self._follower = Follower.of(settings, self.coordinator)
            self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
            self._watcher.start()
        except BaseException:
            self.close()
            raise
        self._tell()

    @property
    def health_port(self) -> int | None:
        """The port of grpc.health.v1."""
        return None if self._health is None else self._health.port

    @property
    def metrics_port(self) -> int | None:
        """The port of GET /metrics."""
        return None if self._metrics_port is None else self._metrics_port.port

    @property
    def pids(self) -> list[int]:
        """The processes that answer lookups."""
        return [process.child.pid for process in self._processes]

    @property
    def is_ready(self) -> bool:
        """Whether lookups are answered and go on to be."""
        is_alive = any(not process.has_ended for process in self._processes)
        is_in_force = self.coordinator.promotions.current in self.coordinator.loaded
        return is_alive and is_in_force and not self._is_ending.is_set()

    def drain(self) -> None:
        """Says NOT_SERVING, then refuses calls, and returns when those under way have ended."""
        self._is_ending.set()
        self._tell()
        time.sleep(self.settings.drain_s)
        self.close()

    def close(self) -> None:
        """Ends all processes; calls under way have the grace of the settings."""
        self._is_ending.set()
        if self._follower is not None:
            self._follower.stop()
        if self._watcher is not None:
            self._watcher.join()
        if self._processes:
            with ThreadPoolExecutor(len(self._processes)) as pool:
                list(pool.map(self._end, self._processes))
        for port in (self._health, self._metrics_port):
            if port is not None:
                port.stop()
        self._port_holder.close()
        shutil.rmtree(self._numbers, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_ports(self) -> None:
        settings = self.settings
        if settings.health_port is not None:
            self._health = HealthPort(settings.host, settings.health_port)
        if settings.metrics_port is not None:
            self._metrics_port = MetricsPort(
                settings.host,
                settings.metrics_port,
                page_of_all(self._numbers),
                lambda: self.is_ready,
            )

    def _spawn(self) -> _Process:
        return _Process(self.coordinator, self._numbers)

    def _prepare(self, process: _Process) -> None:
        document = self.settings.model_dump(mode="json")
        process.channel.call("prepare", PATIENCE_S, settings=document)

    def _watch(self) -> None:
        """Replaces processes that die."""
        failures = 0
        while not self._is_ending.wait(_LOOK_S):
            self._tell()
            for place, process in enumerate(self._processes):
                if not process.has_ended or self._is_ending.is_set():
                    continue
                logger.warning(
                    "process %d ended with status %s; another one takes its place",
                    process.child.pid,
                    process.child.returncode,
                )
                self.coordinator.remove(process.replica)
                process.channel.close()
                try:
                    self._processes[place] = self._replacement()
                    failures = 0
                except MuxtableError as exc:
                    failures += 1
                    logger.warning("it could not be started: %s", exc)
                    self._is_ending.wait(min(2.0**failures * _LOOK_S, _MOST_WAIT_S))

    def _replacement(self) -> _Process:
        process = self._spawn()
        try:
            self._prepare(process)
            self.coordinator.add(process.replica)
            process.channel.call("listen", PATIENCE_S, port=self.port)
        except BaseException:
            self.coordinator.remove(process.replica)
            process.child.kill()
            process.child.wait()
            raise
        return process

    def _end(self, process: _Process) -> None:
        with contextlib.suppress(MuxtableError):
            process.channel.call("drain", 5.0)
        try:
            process.child.wait(self.settings.grace_s + 5.0)
        except subprocess.TimeoutExpired:
            logger.warning("process %d did not end in time and is killed", process.child.pid)
            process.child.kill()
            process.child.wait()
        process.channel.close()

    def _tell(self) -> None:
        if self._health is not None:
            self._health.set_ready(self.is_ready)


def _hold_port(host: str, port: int) -> socket.socket:
    """Returns a socket that holds a port for our processes; UnavailableError where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = UnavailableError(
        f"cannot listen on {host}:{port}", "end the process that does, or choose another port"
    )
    # Without SO_REUSEPORT first: with it, a stranger's port would silently be shared.
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            port = int(probe.getsockname()[1])
        except OSError:
            raise taken from None
    holder = socket.socket(family)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        holder.bind((host, port))
    except OSError:
        holder.close()
        raise taken from None
    return holder
