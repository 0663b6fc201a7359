"""Pods as processes of this machine: user, command, environment, mounts and address of a container.

A container gets a root of its own, read-only, with this Python and nothing else of the machine; a
network namespace on a bridge; process number 1; and a memory cgroup with its limit where one can be
made. What is left out: the image, seccomp, and CPU limits.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.cluster import tree
from tests.launch.command import ROOT

USER = 10001
_BRIDGE = "mxk0"
_PREFIX = "10.88.0."
_CGROUPS = Path("/sys/fs/cgroup/memory")
# Of the machine: libraries, and this interpreter with its packages.
_SHOWN = ("/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc/ssl", "/etc/ld.so.cache")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(\S.*)?$")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def quantity(text: str) -> int:
    """Returns the bytes of a quantity of memory."""
    return next(
        (int(text[:-2]) * factor for unit, factor in _UNITS.items() if text.endswith(unit)), 0
    ) or int(text)


def can_run_pods() -> bool:
    """Whether namespaces, mounts and another user are to be had here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "ip"))):
        return False
    try:
        with Network():
            pass
    except (OSError, subprocess.CalledProcessError):
        return False
    probe = ["unshare", "-m", "-p", "-f", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


class Network:
    """A bridge that pods hang on; this process has its first address, as a kubelet would."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def __enter__(self) -> "Network":
        _quietly("link", "del", _BRIDGE)
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_PREFIX}1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in self._names:
            # The namespace lives on for as long as a process is in it; the cable need not.
            _quietly("link", "del", name.replace("mxk", "mxkv"))
            _quietly("netns", "del", name)
        _quietly("link", "del", _BRIDGE)

    def join(self) -> tuple[str, str]:
        """Makes a namespace on the bridge; returns its name and its address."""
        number = len(self._names) + 2
        name, address = f"mxk{number}", f"{_PREFIX}{number}"
        _quietly("link", "del", f"mxkv{number}")
        _quietly("netns", "del", name)
        _ip("netns", "add", name)
        self._names.append(name)
        _ip("link", "add", f"mxkv{number}", "type", "veth", "peer", "name", f"mxkw{number}")
        _ip("link", "set", f"mxkv{number}", "master", _BRIDGE, "up")
        _ip("link", "set", f"mxkw{number}", "netns", name, "name", "eth0")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        return name, address


@dataclass
class Volumes:
    """What lies behind volumes: claims and Secrets are folders, ConfigMaps are files."""

    folder: Path
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def folder_of(self, volume: Mapping[str, Any], pod: Path) -> Path:
        """Returns the folder of a volume; an emptyDir is the pod's own."""
        if "emptyDir" in volume:
            place = pod / f"empty-{volume['name']}"
        elif "persistentVolumeClaim" in volume:
            place = self.folder / volume["persistentVolumeClaim"]["claimName"]
        elif "secret" in volume:
            place = self.folder / volume["secret"]["secretName"]
            assert place.is_dir(), f"there is no Secret {place.name}"
        else:
            place = pod / f"map-{volume['name']}"
            place.mkdir(exist_ok=True)
            for name, text in self.config_maps[volume["configMap"]["name"]].items():
                (place / name).write_text(text)
        place.mkdir(exist_ok=True)
        # fsGroup
        os.chown(place, -1, USER)
        place.chmod(place.stat().st_mode | 0o070)
        return place


class Pod:
    """The first container of a pod's spec, running."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        network: Network,
        volumes: Volumes,
        *,
        entrypoint: Sequence[str] = (),
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        """`entrypoint` is the image's; `command` stands for what an operator makes of the spec."""
        (container, *_) = spec["containers"]
        check_user(spec, container)
        self.folder = Path(tempfile.mkdtemp(prefix="mxpod", dir="/tmp"))
        self.netns, self.address = network.join()
        self.limit_bytes = quantity(container["resources"]["limits"]["memory"])
        self.grace_s = spec.get("terminationGracePeriodSeconds", 30)
        variables = environment(container, volumes) | dict(env or {})
        words = command or [
            _expanded(word, variables)
            for word in [*container.get("command", entrypoint), *container.get("args", [])]
        ]
        (self.folder / "hosts").write_text(
            "127.0.0.1 localhost\n"
            + "".join(
                f"{address} {name}\n"
                for name, address in {**(hosts or {}), self.netns: self.address}.items()
            )
        )
        script = self.folder / "start"
        script.write_text(
            _script(self.folder, container, _mounts(spec, container, volumes, self.folder))
        )
        self._cgroup = _new_cgroup(self.folder.name, self.limit_bytes)
        self._log = (self.folder / "log").open("w+")
        self._sampled = 0
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.netns),
                *("unshare", "-m", "-p", "-u", "-i", "-f", "--kill-child"),
                *("sh", str(script), container.get("workingDir", "/"), self.netns),
                *(f"{name}={value}" for name, value in variables.items()),
                *words,
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=self._enter_cgroup,
            start_new_session=True,
        )

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Process 1 takes all others of its namespace along.
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.first_process(), signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._log.close()
        if self._cgroup is not None:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    self._cgroup.rmdir()
                    break
                time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What the container has printed."""
        return (self.folder / "log").read_text(errors="replace")

    def first_process(self) -> int:
        """Returns the process that is number 1 inside."""
        (child,) = _children(self.process.pid)
        return child

    def terminate(self) -> None:
        """Sends SIGTERM, as a kubelet does."""
        os.kill(self.first_process(), signal.SIGTERM)

    def run(self, *words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as `kubectl exec` does."""
        pid = self.first_process()
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
        into = ["nsenter", "-t", str(pid), "-m", "-p", "-n", "-u", "-i", "-r", "-w"]
        return subprocess.run(
            [*into, *_drop(), "env", "-i", *filter(None, pairs), *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def is_healthy(self, probe: Mapping[str, Any]) -> bool:
        """Asks a gRPC or HTTP probe of the spec, from outside."""
        if "grpc" in probe:
            said = probe["grpc"]
            with grpc.insecure_channel(f"{self.address}:{said['port']}") as channel:
                ask = health_pb2_grpc.HealthStub(channel).Check
                request = health_pb2.HealthCheckRequest(service=said.get("service", ""))
                try:
                    answer = ask(request, timeout=probe["timeoutSeconds"])
                except grpc.RpcError:
                    return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        said = probe["httpGet"]
        url = f"http://{self.address}:{said['port']}{said['path']}"
        done = subprocess.run(
            ["curl", "-sf", "-m", str(probe["timeoutSeconds"]), url],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def memory(self) -> dict[str, int]:
        """Returns what the kernel counts; "working_set" is what a kubelet goes by."""
        assert self._cgroup is not None
        stat = dict(
            line.split() for line in (self._cgroup / "memory.stat").read_text().splitlines()
        )
        usage = int((self._cgroup / "memory.usage_in_bytes").read_text())
        return {
            "working_set": usage - int(stat["total_inactive_file"]),
            "held": int(stat["total_rss"]) + int(stat.get("total_shmem", 0)),
            "peak": int((self._cgroup / "memory.max_usage_in_bytes").read_text()),
            "limit_hits": int((self._cgroup / "memory.failcnt").read_text()),
            "killed": _number((self._cgroup / "memory.oom_control").read_text(), "oom_kill"),
        }

    def mapped_bytes(self) -> int:
        """Returns the pages of files that its processes have mapped now, each file counted once."""
        sizes: dict[str, int] = {}
        for pid in tree(self.process.pid):
            of_process: dict[str, int] = {}
            name = ""
            try:
                lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                found = _MAPPING.match(line)
                if found:
                    path = found[1] or ""
                    # Heaps and stacks have names in brackets, and are counted as held.
                    is_file = path.startswith("/") and "/dev/shm" not in path
                    name = path if is_file and "deleted" not in path else ""
                elif name and line.startswith("Rss:"):
                    size = int(line.split()[1]) << 10
                    of_process[name] = of_process.get(name, 0) + size
            for name, size in of_process.items():
                sizes[name] = max(size, sizes.get(name, 0))
        return sum(sizes.values())

    def _enter_cgroup(self) -> None:
        if self._cgroup is not None:
            (self._cgroup / "cgroup.procs").write_text(str(os.getpid()))


def check_user(spec: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    """Asserts what `_script` makes true for every container."""
    assert spec["securityContext"]["runAsUser"] == USER
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def environment(container: Mapping[str, Any], volumes: Volumes) -> dict[str, str]:
    """Returns the variables of a container, with the PATH of the image."""
    found = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for entry in container.get("env", []):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            reference = entry["valueFrom"]["configMapKeyRef"]
            found[entry["name"]] = volumes.config_maps[reference["name"]][reference["key"]]
    return found


def wait_until_healthy(pod: Pod, probe: Mapping[str, Any], timeout_s: float) -> float:
    """Returns the seconds until a probe succeeds."""
    began = time.monotonic()
    while not pod.is_healthy(probe):
        assert pod.process.poll() is None, pod.log
        assert time.monotonic() - began < timeout_s, pod.log
        time.sleep(0.1)
    return time.monotonic() - began


@contextlib.contextmanager
def measured(pods: Mapping[str, Pod]) -> Iterator[dict[str, dict[str, int]]]:
    """Gives the largest memory of each pod while entered, in bytes.

    "needed" is what it cannot do without: memory of its own ("held") and the pages of libraries
    that it maps ("mapped"). These are charged to whoever reads them first, here mostly to nobody.
    """
    peaks: dict[str, dict[str, int]] = {name: {} for name in pods}
    ended = threading.Event()

    def keep(name: str, kind: str, size: int) -> None:
        peaks[name][kind] = max(size, peaks[name].get(kind, 0))

    def look() -> None:
        for turn in itertools.count():
            if ended.wait(0.1):
                return
            for name, pod in pods.items():
                for kind, size in pod.memory().items():
                    keep(name, kind, size)
                if turn % 20 == 0:
                    keep(name, "mapped", pod.mapped_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()
        for peak in peaks.values():
            peak["needed"] = peak.get("held", 0) + peak.get("mapped", 0)


def _script(
    folder: Path, container: Mapping[str, Any], mounts: Sequence[tuple[str, str, bool]]
) -> str:
    """The shell that builds the root of a container and becomes its command."""
    root = folder / "root"
    interpreter = [sys.base_prefix, sys.prefix, str(ROOT)]
    interpreter += [
        each
        for each in sys.path
        if Path(each).is_dir() and not any(Path(each).is_relative_to(top) for top in interpreter)
    ]
    lines = ["set -e", "mount --make-rprivate /", f"mkdir {root}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {root}", f"cd {root}"]
    lines += [line for path in _SHOWN for line in _showing(path)]
    lines += ["mkdir -p etc dev/shm proc sys tmp", f"cp {folder}/hosts etc/hosts"]
    lines += [f"echo muxtable:x:{USER}:{USER}::/nonexistent:/bin/false > etc/passwd"]
    lines += [f"echo muxtable:x:{USER}: > etc/group", "mount -t proc proc proc"]
    lines += ["mount --rbind -o ro /sys sys"]
    lines += [f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in _DEVICES]
    for source, target, is_read_only in mounts:
        made = (
            f"mkdir -p .{target}"
            if Path(source).is_dir()
            else (f"mkdir -p .{Path(target).parent}; touch .{target}")
        )
        if source == "tmpfs":
            lines += [f"mkdir -p .{target}", f"mount -t tmpfs -o mode=1777 tmpfs .{target}"]
            continue
        lines += [made, f"mount --bind {source} .{target}"]
        if is_read_only:
            lines.append(f"mount -o remount,bind,ro .{target}")
    # Last: a checkout below /tmp would be hidden by the container's own.
    lines += [line for path in dict.fromkeys(interpreter) for line in _showing(path)]
    lines += ["mkdir -p ." + container.get("workingDir", "/")]
    lines += ["mount -o remount,ro .", 'place=$1; hostname "$2"; shift 2']
    drop = " ".join(_drop())
    # exec all the way: the command is process 1.
    lines += [f'exec chroot . {drop} env -i -C "$place" "$@"']
    return "\n".join(lines) + "\n"


def _showing(path: str) -> list[str]:
    """Lines that make a path of the machine readable inside."""
    if Path(path).is_symlink():
        return [f"ln -s {Path(path).readlink()} .{path}"]
    if Path(path).is_dir():
        return [f"mkdir -p .{path}", f"mount --bind -o ro {path} .{path}"]
    if Path(path).exists():
        return [f"mkdir -p .{Path(path).parent}", f"cp {path} .{path}"]
    return []


def _drop() -> list[str]:
    user = str(USER)
    return [
        *("setpriv", "--reuid", user, "--regid", user, "--groups", user, "--no-new-privs"),
        *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"),
    ]


def _mounts(
    spec: Mapping[str, Any], container: Mapping[str, Any], volumes: Volumes, pod: Path
) -> list[tuple[str, str, bool]]:
    by_name = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounts = []
    for mount in container.get("volumeMounts", []):
        volume = by_name[mount["name"]]
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            mounts.append(("tmpfs", mount["mountPath"], False))
            continue
        source = volumes.folder_of(volume, pod) / mount.get("subPath", "")
        is_read_only = mount.get("readOnly", False) or volume.get("persistentVolumeClaim", {}).get(
            "readOnly", False
        )
        mounts.append((str(source), mount["mountPath"], is_read_only))
    # Folders before what lies in them.
    return sorted(mounts, key=lambda mount: mount[1])


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        word = word.replace(f"$({name})", value)
    return word


def _new_cgroup(name: str, limit_bytes: int) -> Path | None:
    group = _CGROUPS / name
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError:
        return None
    return group


def _number(text: str, name: str) -> int:
    return next(
        (int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0
    )


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _quietly(*words: str) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip(*words)


def describe(peaks: Mapping[str, Mapping[str, int]]) -> str:
    """Returns peaks as one line of JSON, in MiB."""
    return json.dumps(
        {name: {kind: size >> 20 for kind, size in each.items()} for name, each in peaks.items()}
    )
