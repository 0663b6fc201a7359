"""The Ray cluster that a command uses: one that runs, or one of our own for as long as it lasts."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from launch.cluster import access

logger = logging.getLogger(__name__)

LOCAL = "local"
# Our workers hold their data themselves; Ray's default is 30 % of the memory.
_OBJECT_STORE_BYTES = 100 << 20
_CONNECT_S = 1.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Workers a cluster can hold: in all, and with what others use left out."""

    total: int
    free: int


def find_address(address: str | None) -> str:
    """Returns where the cluster is: what was asked for, RAY_ADDRESS (set inside a Ray job), or
    LOCAL."""
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


@contextmanager
def connected(address: str, num_cpus: int) -> Iterator[Path]:
    """Connects to a cluster, or starts a local one with so many CPUs; gives a folder for as long.

    Raises ConfigError for a release, a token or an address that cannot work.
    """
    access.check_release()
    with (
        tempfile.TemporaryDirectory(prefix="muxtable-ray-") as folder,
        _restored("RAY_AUTH_TOKEN_PATH"),
    ):
        access.prepare(Path(folder) if address == LOCAL else None)
        _connect(address, num_cpus)
        try:
            yield Path(folder)
        finally:
            import ray

            ray.shutdown()


@contextmanager
def _restored(name: str) -> Iterator[None]:
    """Puts a variable of the environment back at the end."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def _connect(address: str, num_cpus: int) -> None:
    if address not in (LOCAL, "auto"):
        access.check_address(address)
    import ray

    _quieten()
    own = {
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    try:
        ray.init(
            address=address,
            # Progress, warnings and errors reach us through the board.
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == LOCAL else {}),
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as exc:
        raise _translated(address, exc) from exc


def _quieten() -> None:
    """Keeps Ray's own words to the log of --debug: ours say the same once, and on stderr."""
    import ray._private.worker

    for name, level in (("ray", logging.ERROR), ("ray.train", logging.CRITICAL)):
        logging.getLogger(name).setLevel(level)

    def to_log(data: dict[str, Any], **_: Any) -> None:
        logger.debug("%s: %s", data["pid"], "\n".join(data["lines"]))

    # What raylets report is printed on stdout, where our result stands, and there is no setting.
    ray._private.worker.print_to_stdstream = to_log


def _translated(address: str, error: Exception) -> Exception:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return ConfigError(
            f"the cluster at {address} runs other releases of Ray or Python: {text[:300]}",
            "install the same releases here and on all nodes",
        )
    if isinstance(error, ConnectionError) or "raylet" in text or "node_ip" in text:
        return ConfigError(
            f"cannot join the cluster at {address} from this machine: {text[:300]}",
            "run this on a machine of the cluster (`ray start --address ...`), or send the job "
            "with `muxtable submit`",
        )
    return error


def nodes() -> list[dict[str, Any]]:
    """Returns the nodes that are alive, and not only believed to be.

    Ray takes 10 seconds and more to notice that a node is gone; its port tells at once.
    """
    import ray

    return [
        node
        for node in ray.nodes()
        if node["Alive"] and _answers(node["NodeManagerAddress"], node["NodeManagerPort"])
    ]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def capacity(resources: dict[str, float]) -> Capacity:
    """Returns how many workers of these resources the cluster can hold."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    alive = nodes()
    return Capacity(
        sum(_workers(node["Resources"], resources) for node in alive),
        sum(_workers(free.get(node["NodeID"], {}), resources) for node in alive),
    )


def _workers(there: dict[str, float], needed: dict[str, float]) -> int:
    return min(int(there.get(name, 0) // amount) for name, amount in needed.items())


def settled_capacity(resources: dict[str, float], wanted: int, patience_s: float) -> int:
    """Returns how many workers are free, waiting a while for those of a group that just ended."""
    deadline = time.monotonic() + patience_s
    while True:
        found = capacity(resources)
        if found.free >= min(wanted, found.total) or time.monotonic() > deadline:
            return found.free
        time.sleep(0.2)


def refuse_too_few(workers: int, resources: dict[str, float], address: str) -> None:
    """Raises ConfigError where the cluster cannot hold the workers now: none is waited for."""
    found = capacity(resources)
    if found.free >= workers:
        return
    each = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
    used = found.total - found.free
    in_use = f", of which {used} are in use" if used else ""
    fix = f"--workers {found.free}, " if found.free else ""
    raise ConfigError(
        f"--workers {workers}: the cluster at {address} has room for {found.total} workers of "
        f"{each}{in_use}",
        f"{fix}add nodes, or wait until others are done",
    )
