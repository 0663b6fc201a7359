"""A service with free ports in this process, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.client import Client
from serving.process import Service
from serving.settings import ServeSettings


def settings(directory: Path, **changes: Any) -> ServeSettings:
    defaults = {"port": 0, "health_port": None, "metrics_port": None, "threads": 2}
    return ServeSettings(directory=directory, **{**defaults, **changes})


@contextmanager
def served(directory: Path, **changes: Any) -> Iterator[Service]:
    service = Service(settings(directory, **changes))
    try:
        yield service
    finally:
        service.close(1.0)


@contextmanager
def connected(directory: Path, **changes: Any) -> Iterator[Client]:
    with served(directory, **changes) as service, Client(f"127.0.0.1:{service.port}") as client:
        yield client
