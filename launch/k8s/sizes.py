"""How large pods have to be: memory from the plan of a job, and whether a node can hold them.

    worker pod   ranks x (peak of a rank as `muxtable plan` says + what Ray adds) + Ray's node,
                 less the pages of libraries, which the ranks of a pod share
    head pod     driver, controller, job server, dashboard: whatever the job
    service      interpreter and libraries + the version, which lies mapped in memory

Request and limit are one number, HEADROOM above that: a limit at the peak itself ends a pod for a
few pages more, and Ray's memory monitor ends the largest rank at 95 % of it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError, PlanError

HEADROOM = 0.2
_MIB = 1 << 20

# Seen with Ray 2.60 on Linux x86-64; a slow test measures them again (tests/k8s/test_sizes.py).
# ray, ray.train and pandas in a rank, which a training without Ray does not load.
RAY_RANK_BYTES = 130 * _MIB
# Pages of files in a rank: torch, Arrow, our module.
LIBRARY_BYTES = 165 * _MIB
# A node's raylet, its agents and `ray start`.
RAY_NODE_BYTES = 275 * _MIB
HEAD_BYTES = 1920 * _MIB
SERVE_BYTES = 150 * _MIB

_NODE = re.compile(r"(cpu|gpu|memory)=(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSize:
    """What a pod asks for; request and limit are the same."""

    memory_bytes: int
    cpus: int
    gpus: int = 0

    @property
    def memory(self) -> str:
        """Memory as Kubernetes writes it."""
        return f"{math.ceil(self.memory_bytes / _MIB)}Mi"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """What one node of the cluster can give to pods; None is not said."""

    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None

    @classmethod
    def parse(cls, text: str) -> NodeType:
        """Reads "cpu=16,memory=64GiB,gpu=4"; "" says nothing. ConfigError for anything else."""
        from features.settings import parse_size

        fix = 'write --node "cpu=16,memory=64GiB,gpu=4"'
        said: dict[str, int] = {}
        for part in text.split(",") if text else ():
            found = _NODE.fullmatch(part.strip())
            if found is None:
                raise ConfigError(f'--node: "{part}" is no part of a node', fix)
            name, value = found.groups()
            try:
                said[name] = parse_size(value) if name == "memory" else int(value)
            except ValueError as exc:
                raise ConfigError(f"--node: {name} is {value}", fix) from exc
        return cls(cpus=said.get("cpu"), memory_bytes=said.get("memory"), gpus=said.get("gpu"))

    def refuse(self, whose: str, *, cpus: int = 0, memory_bytes: int = 0, gpus: int = 0) -> None:
        """Raises PlanError where a node of this type can never hold such a pod."""
        for name, asked, there in (
            ("GPUs", gpus, self.gpus),
            ("CPUs", cpus, self.cpus),
            ("bytes of memory", memory_bytes, self.memory_bytes),
        ):
            if there is not None and asked > there:
                raise PlanError(
                    f"a pod of the {whose} asks for {asked:,} {name}, and a node has {there:,}",
                    "fewer --ranks-per-pod or --threads, more --workers, or another type of node",
                )


def with_headroom(num_bytes: int) -> int:
    """Returns a limit of memory for a peak."""
    return math.ceil(num_bytes * (1 + HEADROOM))


def worker_size(peak_bytes: int, ranks: int, threads: int, *, has_gpus: bool) -> PodSize:
    """Returns the size of a pod of so many ranks, each with a peak as planned."""
    needed = ranks * (peak_bytes + RAY_RANK_BYTES) - (ranks - 1) * LIBRARY_BYTES + RAY_NODE_BYTES
    return PodSize(
        memory_bytes=with_headroom(needed),
        cpus=ranks * threads,
        gpus=ranks if has_gpus else 0,
    )


def head_size() -> PodSize:
    """Returns the size of the head's pod."""
    return PodSize(memory_bytes=with_headroom(HEAD_BYTES), cpus=2)


def export_size(peak_bytes: int) -> PodSize:
    """Returns the size of a pod that exports: the tower and a few MiB of rows, less than a rank."""
    return PodSize(memory_bytes=with_headroom(peak_bytes), cpus=1)


def serve_size(version_bytes: int, threads: int) -> PodSize:
    """Returns the size of a pod of the service with a version of so many bytes."""
    return PodSize(memory_bytes=with_headroom(SERVE_BYTES + version_bytes), cpus=threads)


def folder_bytes(folder: Path) -> int:
    """Returns the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
