"""Two nodes with addresses of their own: network namespaces joined by a cable that can be cut."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, finish, wait_until
from tests.e2e.test_kills import outcome
from tests.e2e.test_ray import JOB, arguments, last_step
from tests.trainer.clicks import write_clicks
from trainer.journal import read_journal
from trainer.run import Run
from trainer.toml import toml_text

NAMES = ("mxa", "mxb")
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def remove_namespaces() -> None:
    for name in NAMES:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", name)


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", "mxva", "type", "veth", "peer", "name", "mxvb")
        for name, end, address in zip(NAMES, ("mxva", "mxvb"), ADDRESSES, strict=True):
            ip("link", "set", end, "netns", name, "name", "eth0")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        remove_namespaces()


def can_make_namespaces() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        with namespaces():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not can_make_namespaces(), reason="cannot make network namespaces"),
]


@pytest.fixture
def base(tmp_path) -> Path:
    write_clicks(tmp_path)
    (tmp_path / "job.toml").write_text(toml_text(JOB.model_dump(mode="json", exclude_none=True)))
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with (
        namespaces(),
        Cluster(2, ip=ADDRESSES[0], netns=NAMES[0], GLOO_SOCKET_IFNAME="eth0") as started,
    ):
        started.join(1, ip=ADDRESSES[1], netns=NAMES[1])
        yield started


def bytes_sent(netns: str) -> int:
    words = ["ip", "netns", "exec", netns, "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def start(cluster: Cluster, base: Path, workers: int) -> subprocess.Popen[str]:
    words = ["--workers", workers, "--address", cluster.address]
    return cluster.start("train", *arguments(base, "run", *words))


def test_both_nodes_hold_a_part_of_the_table_and_talk_over_the_cable(base, cluster):
    before = [bytes_sent(name) for name in NAMES]

    done = finish(start(cluster, base, 3), 200)
    nodes = cluster.run("doctor", "--address", cluster.address, "--json").document["nodes"]

    assert done.code == 0, done.err
    assert sorted(node["node"] for node in nodes) == list(ADDRESSES)
    crossed = [bytes_sent(name) - sent for name, sent in zip(NAMES, before, strict=True)]
    steps = Run.open(base / "run").result()["steps"]
    # The gradients of the tower alone are more.
    assert min(crossed) > 1000 * steps


def test_a_lost_node_leaves_two_workers_that_train_every_row(base, cluster):
    process = start(cluster, base, 3)

    wait_until(lambda: last_step(base / "run") >= 40, 120)
    cluster.nodes[1].kill()
    done = finish(process, 200)

    assert done.code == 0, done.err
    assert "starting again with 2 workers" in done.err
    assert "2 workers are left" in done.err
    trained = [line for line in read_journal(base / "run/metrics.jsonl") if line["kind"] == "train"]
    assert trained[-1]["samples"] == 2000 * JOB.train.epochs


def test_a_cut_cable_ends_the_attempt_and_the_rest_goes_on(base, cluster):
    process = start(cluster, base, 3)

    wait_until(lambda: last_step(base / "run") >= 40, 120)
    ip("-n", NAMES[0], "link", "set", "eth0", "down")
    done = finish(process, 300)

    assert done.code == 0, done.err
    assert "starting again with 2 workers" in done.err
    assert outcome(Run.open(base / "run"))["result"]["samples"] == 2000 * JOB.train.epochs
