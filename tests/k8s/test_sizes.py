"""Pods of three sizes of jobs stay below the limits that render gives them, and not far below."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.k8s.sizes import (
    HEADROOM,
    LIBRARY_BYTES,
    RAY_RANK_BYTES,
    NodeType,
    serve_size,
    with_headroom,
    worker_size,
)
from tests.k8s import kuberay
from tests.k8s.mutations import one
from tests.k8s.pods import Network, Volumes, can_run_pods, describe, measured
from tests.k8s.test_render import render
from trainer.toml import toml_text

logger = logging.getLogger(__name__)

_MIB = 1 << 20


def test_a_pod_is_as_large_as_its_ranks_and_what_ray_takes():
    single = worker_size(1000 * _MIB, 1, 2, has_gpus=False)
    double = worker_size(1000 * _MIB, 2, 2, has_gpus=True)

    assert single.memory == f"{-(-single.memory_bytes // _MIB)}Mi"
    assert (single.cpus, single.gpus) == (2, 0)
    assert (double.cpus, double.gpus) == (4, 2)
    # A second rank brings its own peak and Ray's part, and finds the libraries' pages there.
    second = 1000 * _MIB + RAY_RANK_BYTES - LIBRARY_BYTES
    growth = double.memory_bytes - single.memory_bytes
    assert growth == pytest.approx((1 + HEADROOM) * second, abs=2)


def test_a_service_holds_its_version():
    growth = serve_size(3 << 30, 1).memory_bytes - serve_size(1 << 30, 1).memory_bytes

    assert growth == pytest.approx(with_headroom(2 << 30), abs=2)


def test_a_node_is_read_as_it_is_written():
    node = NodeType.parse("cpu=16, memory=64GiB,gpu=4")

    assert node == NodeType(cpus=16, memory_bytes=64 << 30, gpus=4)
    assert NodeType.parse("") == NodeType()


def write_table(folder: Path, budget: str, width: int, batch_size: int) -> Path:
    """Writes a job of ten columns of ids and a table of so many bytes."""
    rng = np.random.default_rng(0)
    rows = 400_000
    columns: dict[str, Any] = {f"id{i}": rng.integers(0, 2_000_000, rows) for i in range(10)}
    columns |= {f"number{i}": rng.random(rows) for i in range(5)}
    columns["label"] = rng.integers(0, 2, rows).astype(np.int8)
    data = folder / "data"
    data.mkdir()
    pq.write_table(pa.table(columns), data / "train.parquet", row_group_size=16_384)
    tree = {
        "data": {"train": "data/train.parquet", "valid": "data/train.parquet", "label": "label"},
        "features": {
            "categorical": [name for name in columns if name.startswith("id")],
            "dense": [name for name in columns if name.startswith("number")],
        },
        "table": {"budget": budget, "width": width},
        "train": {"batch_size": batch_size},
        "run": {"dir": "runs/sized", "keep": 1},
    }
    path = folder / "sized.toml"
    path.write_text(toml_text(tree))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not can_run_pods(), reason="needs root, unshare, setpriv and ip")
@pytest.mark.parametrize(
    ("budget", "width", "batch_size", "ranks_per_pod"),
    [("4 MB", 8, 1024, 1), ("256 MB", 16, 4096, 2), ("2 GB", 32, 8192, 1)],
)
def test_limits_stand_above_the_peak_by_a_tenth_to_three(
    tmp_path, budget, width, batch_size, ranks_per_pod
):
    path = write_table(tmp_path, budget, width, batch_size)
    words = ("--ranks-per-pod", ranks_per_pod, "--json")
    rendered = render(path, *words, workers=2 * ranks_per_pod)
    assert rendered.code == 0, rendered.err
    job = one(rendered.document["objects"], "RayJob")
    config = one(rendered.document["objects"], "ConfigMap")
    (tmp_path / "data").rename(tmp_path / "muxtable-data")
    volumes = Volumes(tmp_path, {config["metadata"]["name"]: config["data"]})

    with (
        Network() as network,
        kuberay.cluster(job["spec"]["rayClusterSpec"], network, volumes) as running,
    ):
        with measured(running.pods) as peaks:
            code, log = kuberay.submit(job, running, network, volumes, 600)
        limits = {name: pod.limit_bytes for name, pod in running.pods.items()}
        # Beyond the limit the kernel kills: it gave back pages of files at most.
        killed = [pod.memory()["killed"] for pod in running.pods.values()]

    assert code == 0, log
    assert killed == [0] * len(killed)
    # Any pod of a group may hold rank 0, which evaluates: the largest counts.
    largest = max((name for name in limits if name != "head"), key=lambda n: peaks[n]["needed"])
    for name in ("head", largest):
        ratio = limits[name] / peaks[name]["needed"]
        logger.info("%s, %s: limit %.3f of the peak, %s", budget, name, ratio, describe(peaks))
        assert 1.1 <= ratio <= 1.3, (name, describe(peaks))
