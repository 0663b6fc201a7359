"""What each node of a cluster has, and in what they disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from launch.cluster import connection

# A rank of one release may not talk to a rank of another.
COMPARED = ("muxtable", "python", "ray", "torch", "numpy", "pyarrow", "native")
_ANSWER_S = 60.0


def examine_cluster(address: str | None) -> list[dict[str, Any]]:
    """Returns what every node says of itself: its address, CPUs, releases, and whether the native
    module can be loaded; "error" where it does not answer."""
    with connection.connected(connection.find_address(address), 1):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = ray.remote(num_cpus=0, max_retries=0)(_examination())
        asked = [
            (
                node,
                task.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ).remote(),
            )
            for node in connection.nodes()
        ]
        return [_answer(node, reference) for node, reference in asked]


def _answer(node: dict[str, Any], reference: Any) -> dict[str, Any]:
    import ray

    known = {"node": node["NodeManagerAddress"], "cpus": int(node["Resources"].get("CPU", 0))}
    try:
        return known | ray.get(reference, timeout=_ANSWER_S)
    except ray.exceptions.RayError as exc:
        return known | {"error": str(exc).strip().splitlines()[-1][:200]}


def _examination() -> Callable[[], dict[str, Any]]:
    """Returns the task. A function inside another one travels as code: a node without muxtable can
    say so."""

    def examine() -> dict[str, Any]:
        import importlib.metadata
        import os
        import platform
        import shutil
        import tempfile

        found: dict[str, Any] = {"host": platform.node(), "python": platform.python_version()}
        for name in ("muxtable", "ray", "torch", "numpy", "pyarrow"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        try:
            import native.kernels
        except ImportError as exc:
            found["native"], found["reason"] = None, str(exc)
        else:
            found["native"] = native.kernels.instruction_set()
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found["disk_free_bytes"] = shutil.disk_usage(tempfile.gettempdir()).free
        return found

    return examine


def disagreements(found: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what keeps the nodes from training together, a sentence each."""
    said = [f"{node['node']} does not answer: {node['error']}" for node in found if "error" in node]
    answered = [node for node in found if "error" not in node]
    for name in COMPARED:
        # Instruction sets may differ: the kernels give the same bits.
        values = Counter(
            node[name] if name != "native" else node[name] is not None for node in answered
        )
        usual = values.most_common(1)[0][0] if values else None
        for node in answered:
            value = node[name]
            if value is None:
                said.append(f"{node['node']} has no {_called(name)}{_reason(node, name)}")
            elif name != "native" and value != usual:
                said.append(f"{node['node']} has {name} {value}, others have {usual}")
    return said


def _called(name: str) -> str:
    return "native module" if name == "native" else name


def _reason(node: dict[str, Any], name: str) -> str:
    return f": {node['reason']}" if name == "native" and "reason" in node else ""
