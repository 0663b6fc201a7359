"""`muxtable serve` in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.launch.command import ROOT


class Running:
    """A service that was started, with what it said of itself."""

    def __init__(self, child: subprocess.Popen[str], document: dict[str, Any]) -> None:
        self.child = child
        self.document = document
        self.address: str = document["address"]

    def terminate(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        code = self.child.wait(20)
        self.child.stdout.close()
        return code

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(10)
        self.child.stdout.close()


def start(*arguments: object, stderr: Any = None) -> Running:
    child = subprocess.Popen(
        [sys.executable, "-m", "muxtable", "serve", *map(str, arguments), "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    line = child.stdout.readline()
    document = json.loads(line or "{}")
    if "address" not in document:
        child.stdout.close()
        raise AssertionError(f"the service did not start: {child.wait(30)} {document}")
    return Running(child, document)


@contextmanager
def running(*arguments: object, stderr: Any = None) -> Iterator[Running]:
    service = start(*arguments, stderr=stderr)
    try:
        yield service
    finally:
        service.child.terminate()
        try:
            service.child.wait(20)
        except subprocess.TimeoutExpired:
            service.child.kill()
        service.child.stdout.close()


def quiet(directory: Path, *more: object) -> tuple[object, ...]:
    """Arguments for a service on a free port without other ports."""
    return (directory, "--port", 0, "--health-port", -1, "--metrics-port", -1, *more)
