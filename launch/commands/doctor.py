"""`muxtable doctor`: what this machine and this installation can do, and why not more."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from launch.console import Column, Output, facts, size_text, table

_PACKAGES = (
    "numpy",
    "pyarrow",
    "pydantic",
    "torch",
    "torchrec",
    "fbgemm_gpu-cpu",
    "fbgemm_gpu",
    "ray",
)


def command(
    ctx: typer.Context,
    torch: Annotated[
        bool, typer.Option("--torch/--no-torch", help="Also look at torch and the table engines.")
    ] = True,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Look at every node of this Ray cluster instead."),
    ] = None,
) -> int | None:
    """Print versions, device, table engines (and why one is missing), memory and disk."""
    output: Output = ctx.obj
    if address is not None:
        return _cluster(address, output)
    document: dict[str, Any] = {
        "versions": _versions(),
        "machine": _machine(),
        "native": _native(),
    }
    if torch:
        document["torch"] = _torch()
        document["engines"] = _engines()
    document["openmp"] = _openmp_libraries()
    document["warnings"] = _warnings(document)
    output.result(document, lambda console: _render(console, document))
    for warning in document["warnings"]:
        if not output.json:
            output.warn(warning)
    return None


def _cluster(address: str, output: Output) -> int | None:
    """Looks at the nodes; 1 where they cannot train together."""
    from launch.cluster.nodes import COMPARED, disagreements, examine_cluster

    nodes = examine_cluster(address)
    warnings = disagreements(nodes)
    columns = [
        Column("node", right=False),
        Column("CPUs"),
        *map(Column, COMPARED),
        Column("memory"),
    ]
    rows = [
        (
            node["node"],
            node["cpus"],
            *(node.get(name) or "none" for name in COMPARED),
            size_text(node.get("memory_bytes", 0)),
        )
        for node in nodes
    ]
    document = {"nodes": nodes, "warnings": warnings}
    output.result(document, lambda console: console.print(table("nodes", columns, rows)))
    if not output.json:
        for warning in warnings:
            output.warn(warning)
    return 1 if warnings else None


def _versions() -> dict[str, str | None]:
    from muxtable import __version__

    versions: dict[str, str | None] = {
        "muxtable": __version__,
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _machine() -> dict[str, Any]:
    usage = shutil.disk_usage(Path.cwd())
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_limit_bytes": _memory_limit(),
        "disk_free_bytes": usage.free,
        "huge_pages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "threads_variable": os.environ.get("OMP_NUM_THREADS", "unset"),
    }


def _processor() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _memory_limit() -> int | None:
    """The memory limit of the container, where there is one."""
    for line in _lines(Path("/sys/fs/cgroup/memory.max")):
        return int(line) if line.isdigit() else None
    return None


def _chosen(path: Path) -> str:
    """The word in brackets of a kernel setting such as "always [madvise] never"."""
    for line in _lines(path):
        return line.partition("[")[2].partition("]")[0] or line
    return "unknown"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _native() -> dict[str, Any]:
    try:
        from native.kernels import instruction_set
    except ImportError as exc:
        return {"available": False, "reason": f"{exc}; run `make native`"}
    return {"available": True, "instruction_set": instruction_set()}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as exc:
        return {"available": False, "reason": str(exc)}
    cuda = torch.cuda.is_available()
    return {
        "available": True,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "cuda": torch.version.cuda,
    }


def _engines() -> dict[str, str | None]:
    """Engine -> None where it works here, else the reason why not."""
    try:
        from sharding.table import available_engines
    except ImportError as exc:
        return {"fused": str(exc), "torchrec": str(exc)}
    return dict(available_engines())


def _openmp_libraries() -> list[str]:
    """OpenMP libraries of this process; two of them mean two pools of threads that fight."""
    names = {line.split()[-1] for line in _lines(Path("/proc/self/maps")) if "/" in line}
    return sorted(name for name in names if "gomp" in Path(name).name or "iomp" in Path(name).name)


def _warnings(document: dict[str, Any]) -> list[str]:
    warnings = []
    if len(document["openmp"]) > 1:
        warnings.append(
            f"{len(document['openmp'])} OpenMP libraries are loaded; their threads fight for cores"
        )
    if not document["native"]["available"]:
        warnings.append(f"the native module is missing: {document['native']['reason']}")
    if document["machine"]["huge_pages"] == "never":
        warnings.append("huge pages are off: large tables are 15-35 % slower")
    if sys.version_info[:2] != (3, 11):
        warnings.append("tested with Python 3.11 only")
    return warnings


def _render(console: Console, document: dict[str, Any]) -> None:
    machine, native = document["machine"], document["native"]
    console.print(
        facts("versions", ((k, v or "not installed") for k, v in document["versions"].items()))
    )
    limit = machine["memory_limit_bytes"]
    memory = size_text(machine["memory_bytes"])
    rows = [
        ("system", machine["system"]),
        ("processor", machine["processor"]),
        ("cores", machine["cores"]),
        ("memory", memory + (f", limited to {size_text(limit)}" if limit else "")),
        ("disk free here", size_text(machine["disk_free_bytes"])),
        ("huge pages", machine["huge_pages"]),
        ("instructions", native.get("instruction_set") or "native module missing"),
        ("OpenMP", ", ".join(document["openmp"]) or "none loaded"),
        ("OMP_WAIT_POLICY", machine["wait_policy"]),
    ]
    if "torch" in document:
        torch = document["torch"]
        rows.append(("device", torch.get("device") or f"torch is missing: {torch['reason']}"))
    console.print(facts("machine", rows))
    if "engines" in document:
        engines = document["engines"].items()
        console.print(facts("table engines", ((k, why or "works") for k, why in engines)))
