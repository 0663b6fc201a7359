"""What the manifests start, started: as another user, on a read-only root, by their own probes."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import muxtable
from tests.k8s import kuberay
from tests.k8s.mutations import one
from tests.k8s.overlays import built, needs_kustomize
from tests.k8s.pods import Network, Pod, Volumes, can_run_pods, wait_until_healthy
from tests.k8s.test_render import write_job
from tests.launch.command import ROOT
from tests.serving.certificates import Authority
from tests.serving.small import write_version
from tests.trainer.clicks import write_clicks

pytestmark = [
    needs_kustomize,
    pytest.mark.skipif(not can_run_pods(), reason="needs root, unshare, setpriv and ip"),
]
_LOOKS_UP = """
import json, sys, time, muxtable
from pathlib import Path
from features.errors import MuxtableError
ca = Path(sys.argv[1], "muxtable-serve-tls", "ca.crt").read_bytes()
with muxtable.Client("127.0.0.1:50051", ca=ca, token="reads", timeout_s=2) as client:
    good, said, end = [], "", time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        try:
            found = client.lookup({"user": [7]}, ["user"])
            good.append(time.time())
        except MuxtableError as error:
            said = type(error).__name__
            break
        time.sleep(0.01)
    print(json.dumps({"calls": len(good), "last": good[-1], "error": said,
                      "version": found.version, "counter": found.counter}))
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def volumes(tmp_path) -> Volumes:
    """Versions and Secrets, as the volumes of the service and of the publisher want them."""
    for step in (1, 2):
        write_version(tmp_path / "muxtable-versions", step, rows=20_000)
    authority = Authority(tmp_path)
    for name, host in (("serve", "localhost"), ("publisher", "muxtable-publisher")):
        issued = authority.issue(host)
        secret(tmp_path, f"muxtable-{name}-tls", "tls.crt", issued.cert.read_text())
        secret(tmp_path, f"muxtable-{name}-tls", "tls.key", issued.key.read_text())
        secret(tmp_path, f"muxtable-{name}-tls", "ca.crt", authority.path.read_text())
    secret(tmp_path, "muxtable-serve-access", "access", "read token reads\n")
    secret(tmp_path, "muxtable-publisher-access", "access", "replicate token copies\n")
    secret(tmp_path, "muxtable-serve-follow", "token", "copies")
    secret(tmp_path, "muxtable-serve-follow", "ca.crt", authority.path.read_text())
    return Volumes(tmp_path)


def secret(folder: Path, name: str, key: str, value: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / key).write_text(value)


def pod_of(overlay: str, kind: str = "Deployment") -> dict[str, Any]:
    return one(built(overlay), kind)["spec"]["template"]["spec"]


def serve(spec: dict[str, Any], network: Network, volumes: Volumes, **more: Any) -> Pod:
    return Pod(spec, network, volumes, entrypoint=["muxtable", "serve"], **more)


def probe_of(spec: dict[str, Any], kind: str) -> dict[str, Any]:
    return spec["containers"][0][f"{kind}Probe"]


def look_up(pod: Pod, volumes: Volumes, seconds: float = 0.1) -> dict[str, Any]:
    """Looks up for a while or until that fails, at the loopback of the pod."""
    python = ["ip", "netns", "exec", pod.netns, sys.executable, "-c"]
    done = subprocess.run(
        [*python, _LOOKS_UP, str(volumes.folder), str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + pod.log
    return json.loads(done.stdout)


def test_a_container_is_what_its_manifest_says(network, volumes):
    spec = pod_of("cpu")

    with serve(spec, network, volumes) as pod:
        wait_until_healthy(pod, probe_of(spec, "startup"), 40)
        status = pod.run("cat", "/proc/1/status").stdout
        writes = {
            path: pod.run("touch", f"{path}/x").returncode
            for path in ("/", "/usr", "/published", "/etc/muxtable/tls", "/tmp", "/serve/versions")
        }

    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["10001"] * 4
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert {path for path, code in writes.items() if code == 0} == {"/tmp", "/serve/versions"}


def test_the_service_gets_ready_by_its_own_probes_and_drains_in_time(network, volumes):
    spec = pod_of("cpu")
    readiness = probe_of(spec, "readiness")

    with serve(spec, network, volumes) as pod:
        wait_until_healthy(pod, probe_of(spec, "startup"), 40)
        assert pod.is_healthy(readiness)
        assert pod.is_healthy(probe_of(spec, "liveness"))
        calls: dict[str, Any] = {}
        caller = threading.Thread(target=lambda: calls.update(look_up(pod, volumes, 30)))
        caller.start()
        time.sleep(2.5)
        began, started = time.monotonic(), time.time()
        pod.terminate()
        time.sleep(1)
        is_ready_when_draining = pod.is_healthy(readiness)
        code = pod.process.wait(pod.grace_s)
        took = time.monotonic() - began
        caller.join()

    assert code == 0
    assert not is_ready_when_draining
    assert took < 5 + 20 + 1
    # Whoever does not know yet is answered for the five seconds of --drain-s.
    assert calls["last"] - started > 4.5
    assert calls["error"] in ("UnavailableError", "")


def test_pods_of_any_age_count_the_same_promotions(network, volumes):
    spec, other = pod_of("cpu"), pod_of("cpu")
    (variable,) = (e for e in other["containers"][0]["env"] if e["name"] == "MUXTABLE_VERSION")
    variable["value"] = "v-0000000002"

    with serve(spec, network, volumes) as old:
        wait_until_healthy(old, probe_of(spec, "startup"), 40)
        before = look_up(old, volumes)
        with serve(other, network, volumes) as new:
            wait_until_healthy(new, probe_of(spec, "startup"), 40)
            after = look_up(new, volumes)

    assert (before["version"], before["counter"]) == ("v-0000000001", 1)
    assert (after["version"], after["counter"]) == ("v-0000000002", 1)


def test_a_pod_without_its_version_lives_and_is_not_ready(network, volumes):
    spec = pod_of("cpu")
    (variable,) = (e for e in spec["containers"][0]["env"] if e["name"] == "MUXTABLE_VERSION")
    variable["value"] = "v-0000000009"

    with serve(spec, network, volumes) as pod:
        wait_until_healthy(pod, probe_of(spec, "liveness"), 40)
        time.sleep(2)

        assert not pod.is_healthy(probe_of(spec, "startup"))
        assert pod.is_healthy(probe_of(spec, "liveness"))


def test_a_missing_secret_ends_the_pod_with_a_word(network, volumes):
    (volumes.folder / "muxtable-serve-tls" / "tls.crt").unlink()

    with serve(pod_of("cpu"), network, volumes) as pod:
        code = pod.process.wait(40)
        log = pod.log

    assert code == 2
    assert "/etc/muxtable/tls/tls.crt" in log


def test_pods_fetch_their_version_from_a_publisher(network, volumes):
    spec, source = pod_of("gpu"), pod_of("gpu", "StatefulSet")

    with serve(source, network, volumes) as publisher:
        wait_until_healthy(publisher, probe_of(source, "readiness"), 40)
        hosts = {"muxtable-publisher": publisher.address}
        with serve(spec, network, volumes, hosts=hosts) as pod:
            wait_until_healthy(pod, probe_of(spec, "startup"), 40)
            found = look_up(pod, volumes)

    assert (found["version"], found["counter"]) == ("v-0000000001", 1)


def test_a_single_pod_takes_over_what_arrives(network, volumes):
    spec = pod_of("dev")

    with serve(spec, network, volumes) as pod:
        wait_until_healthy(pod, probe_of(spec, "startup"), 40)
        said = pod.run("muxtable", "versions", "127.0.0.1:50051").stdout

    assert "v-0000000002" in said
    assert "AVAILABLE" in said


def test_a_client_takes_turns_over_the_pods_of_a_name(network, volumes):
    spec = pod_of("dev")

    with serve(spec, network, volumes) as one_pod, serve(spec, network, volumes) as other:
        for pod in (one_pod, other):
            wait_until_healthy(pod, probe_of(spec, "startup"), 40)
        # What a resolver makes of the name of a headless Service.
        target = f"ipv4:{one_pod.address}:50051,{other.address}:50051"
        with muxtable.Client(target, channels=1) as client:
            for _ in range(20):
                client.lookup({"user": [7]}, ["user"])
        answered = [calls_of(pod) for pod in (one_pod, other)]

    assert sum(answered) == 20
    assert min(answered) >= 5


def calls_of(pod: Pod) -> float:
    """The lookups that a pod says it has answered."""
    with urllib.request.urlopen(f"http://{pod.address}:9090/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("muxtable_calls_total") and 'method="Lookup"' in line
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_trains_on_its_cluster_and_its_version_is_served(network, volumes):
    objects = built("cpu")
    job = one(objects, "RayJob")
    folder = volumes.folder
    write_clicks(folder / "muxtable-data")
    toml = write_job(folder, "muxtable-train").read_text()
    volumes.config_maps = {"muxtable-train-job": {"job.toml": toml}}
    exporter = one(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    with kuberay.cluster(job["spec"]["rayClusterSpec"], network, volumes) as running:
        code, log = kuberay.submit(job, running, network, volumes, 300)
        hits = [pod.memory()["limit_hits"] for pod in running.pods.values()]
    with Pod(exporter, network, volumes) as pod:
        exported = pod.process.wait(120)
        said = pod.log
    (name,) = (
        path.name
        for path in (folder / "muxtable-versions").iterdir()
        if path.name > "v-0000000002" and path.is_dir()
    )
    spec = pod_of("cpu")
    (variable,) = (e for e in spec["containers"][0]["env"] if e["name"] == "MUXTABLE_VERSION")
    variable["value"] = name
    with serve(spec, network, volumes) as pod:
        wait_until_healthy(pod, probe_of(spec, "startup"), 40)
        found = look_up(pod, volumes)

    assert code == 0, log
    assert "metrics of the best model" in log
    assert hits == [0, 0, 0]
    assert exported == 0, said
    assert found["version"] == name
