"""Ray clusters of real processes on this machine, each node perhaps in a network namespace."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.launch.command import ROOT, Finished

_START_S = 60.0
_FAST_HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_initial_delay_ms": "1000",
}


class Node:
    """A `ray start` and all that it started."""

    def __init__(self, words: list[str], env: Mapping[str, str], netns: str | None = None) -> None:
        self.netns = netns
        self.process = subprocess.Popen(
            [*inside(netns), str(Path(sys.executable).parent / "ray"), "start", "--block", *words],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def workers(self) -> list[int]:
        """Returns the processes that train."""
        return [pid for pid in tree(self.process.pid) if is_worker(pid)]

    def raylet(self) -> int:
        """Returns the process that makes this a node."""
        (pid,) = [pid for pid in tree(self.process.pid) if _name(pid).endswith("/raylet")]
        return pid

    def kill(self) -> None:
        """Ends the node, as a power cut would."""
        kill_tree(self.process)


class Cluster:
    """A head with a token of its own, and nodes that join it."""

    def __init__(
        self,
        num_cpus: int,
        *,
        ip: str | None = None,
        netns: str | None = None,
        **env: str,
    ) -> None:
        # Ray makes sockets below it, whose paths may have 107 letters.
        self.folder = Path(tempfile.mkdtemp(prefix="mx", dir="/tmp"))
        token = self.folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        # The nodes find `python`, the entrypoint of jobs, where this one is.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            **_FAST_HEALTH,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PATH": path,
            "COLUMNS": "120",
            **env,
        }
        port, dashboard, client = free_ports(3)
        self.netns = netns
        self.address = f"{ip or '127.0.0.1'}:{port}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        words = ["--head", f"--port={port}", f"--temp-dir={self.folder / 'ray'}"]
        words += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        words += [f"--ray-client-server-port={client}"]
        self.nodes = [self._start(num_cpus, words, ip, netns)]
        try:
            self._wait_for_nodes(1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all nodes."""
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def join(self, num_cpus: int, *, ip: str | None = None, netns: str | None = None) -> Node:
        """Starts another node."""
        node = self._start(num_cpus, [f"--address={self.address}"], ip, netns)
        self.nodes.append(node)
        self._wait_for_nodes(len(self.nodes))
        return node

    def start(self, *words: object, **env: str) -> subprocess.Popen[str]:
        """Starts `muxtable` on the machine of the head."""
        return subprocess.Popen(
            [*inside(self.netns), sys.executable, "-m", "muxtable", *map(str, words)],
            env={**self.env, **env},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: object, timeout_s: float = 120, **env: str) -> Finished:
        """Runs `muxtable`."""
        return finish(self.start(*words, **env), timeout_s)

    def _start(self, num_cpus: int, words: list[str], ip: str | None, netns: str | None) -> Node:
        words = [*words, f"--num-cpus={num_cpus}", "--object-store-memory=104857600"]
        # Two clusters of one machine would have this port in common.
        words += [f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        words += ["--disable-usage-stats", *([f"--node-ip-address={ip}"] if ip else [])]
        return Node(words, self.env, netns)

    def _wait_for_nodes(self, number: int) -> None:
        code = (
            "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=50); "
            "sys.exit(sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]))"
        )
        host, _, port = self.address.rpartition(":")

        def is_up() -> bool:
            probe = [*inside(self.netns), sys.executable, "-c"]
            if self.netns is None:
                with socket.socket() as knock:
                    if knock.connect_ex((host, int(port))):
                        return False
            done = subprocess.run(
                [*probe, code, self.address, str(number)],
                env=self.env,
                capture_output=True,
                check=False,
                timeout=_START_S,
            )
            return done.returncode == 0

        wait_until(is_up, _START_S)


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> Finished:
    """Waits for a command; ends it with all it started where it takes too long."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        out, err = process.communicate()
        raise AssertionError(f"not done in {timeout_s} s:\n{out}\n{err}") from None
    return Finished(process.returncode, out, err)


def wait_until(is_true: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)


def inside(netns: str | None) -> list[str]:
    """Returns what to put before a command to run it in a network namespace."""
    return ["ip", "netns", "exec", netns] if netns else []


def free_ports(number: int) -> list[int]:
    """Returns ports that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def tree(root: int) -> list[int]:
    """Returns a process and all below it, the youngest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, seen = [root], 0
    while seen < len(found):
        found += children.get(found[seen], [])
        seen += 1
    return found[::-1]


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """Ends a process of ours and all below it."""
    # The root first: it would report the death of its children, or start others.
    for pid in reversed(tree(process.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def is_worker(pid: int) -> bool:
    """Whether a process is a worker of Ray Train."""
    return _name(pid).startswith("ray::RayTrainWorker")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""
