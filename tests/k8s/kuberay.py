"""What the KubeRay operator makes of a RayJob: command lines, environment, the order of its pods.

`ray start` out of rayStartParams, a token from a Secret of its own, and a pod that submits the
entrypoint and follows it.
"""

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.pods import Network, Pod, Volumes, quantity, wait_until_healthy

_START_S = 90.0


@dataclass
class Running:
    """The pods of a RayJob's cluster, and what every pod is told."""

    head: Pod
    workers: list[Pod]
    env: dict[str, str]

    @property
    def pods(self) -> dict[str, Pod]:
        """All of them by name."""
        return {"head": self.head} | {f"worker-{i}": each for i, each in enumerate(self.workers)}


@contextlib.contextmanager
def cluster(
    spec: Mapping[str, Any], network: Network, volumes: Volumes, num_workers: int | None = None
) -> Iterator[Running]:
    """Starts the pods of a rayClusterSpec and gives them when all are ready by their own probes."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    group = spec["headGroupSpec"]
    pod_spec = group["template"]["spec"]
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(
            Pod(pod_spec, network, volumes, command=_start(group, "--head"), env=token)
        )
        wait_until_healthy(head, pod_spec["containers"][0]["readinessProbe"], _START_S)
        address = f"{head.address}:6379"
        workers = []
        for group in spec["workerGroupSpecs"]:
            pod_spec = group["template"]["spec"]
            for _ in range(num_workers or group["replicas"]):
                env = token | {"RAY_ADDRESS": address}
                words = _start(group, f"--address={address}")
                pod = Pod(pod_spec, network, volumes, command=words, env=env)
                workers.append(stack.enter_context(pod))
            for pod in workers:
                wait_until_healthy(pod, pod_spec["containers"][0]["readinessProbe"], _START_S)
        yield Running(head, workers, token)


def submit(
    job: Mapping[str, Any], running: Running, network: Network, volumes: Volumes, timeout_s: float
) -> tuple[int, str]:
    """Runs the submitter's pod; returns its exit code and what it printed."""
    spec = job["spec"]
    environment = json.dumps(yaml.safe_load(spec["runtimeEnvYAML"]))
    dashboard = f"http://{running.head.address}:8265"
    line = (
        f"ray job submit --address {dashboard} --no-wait --runtime-env-json '{environment}' "
        f"--submission-id {job['metadata']['name']} -- {spec['entrypoint']} && "
        f"ray job logs --address {dashboard} --follow {job['metadata']['name']}"
    )
    with Pod(
        spec["submitterPodTemplate"]["spec"],
        network,
        volumes,
        command=["bash", "-c", line],
        env=running.env,
    ) as pod:
        try:
            code = pod.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = -1
        return code, pod.log


def load(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of manifests."""
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def _start(group: Mapping[str, Any], where: str) -> list[str]:
    (container, *_) = group["template"]["spec"]["containers"]
    words = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
    memory = quantity(container["resources"]["limits"]["memory"])
    words += ["--metrics-export-port=8080", "--dashboard-agent-listen-port=52365"]
    line = " ".join(["ray", "start", where, *words, f"--memory={memory}", "--block"])
    return ["bash", "-c", "--", f"ulimit -n 65536; {line}"]
