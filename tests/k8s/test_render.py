"""`muxtable k8s render`: ready manifests out of a job and its plan, and mistakes told at once."""

from pathlib import Path

import pytest
import yaml

from launch.k8s.manifests import Manifests, option
from launch.k8s.rules import check
from launch.k8s.sizes import HEADROOM, LIBRARY_BYTES, RAY_NODE_BYTES, RAY_RANK_BYTES
from tests.k8s.overlays import complaints, needs_crds
from tests.launch.command import Finished, muxtable
from tests.serving.small import write_version
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.toml import toml_text

DIGEST = "@sha256:" + "a" * 64
IMAGE = f"registry.example/train{DIGEST}"
SERVE = f"registry.example/serve{DIGEST}"
SERVICE = ("--serve-image", SERVE, "--version", "v-0000000007")
SECRETS = ("--tls-secret", "tls", "--access-secret", "access")


def write_job(folder: Path, name: str = "clicks", **changes) -> Path:
    """Writes a job whose data lies below data/, as in the pods."""
    tree = clicks_job(**changes).model_dump(mode="json", exclude_none=True)
    for part in ("train", "valid", "test"):
        if part in tree["data"]:
            tree["data"][part] = f"data/{tree['data'][part]}"
    tree["run"]["dir"] = f"runs/{name}"
    tree["data"]["streams"] = 12
    path = folder / f"{name}.toml"
    path.write_text(toml_text(tree))
    return path


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("render")
    write_clicks(folder / "data")
    return write_job(folder)


def render(job: Path, *words: object, workers: int = 4, image: str = IMAGE) -> Finished:
    where = ("--job", job, "--image", image, "--workers", workers)
    return muxtable("k8s", "render", *where, *words, timeout_s=300)


@pytest.fixture(scope="module")
def rendered(job) -> Finished:
    words = ("--ranks-per-pod", 2, "--threads", 3, "--set", "train.epochs=2", *SERVICE, *SECRETS)
    return render(job, *words, "--json")


def of(rendered: Finished) -> Manifests:
    assert rendered.code == 0, rendered.err
    return Manifests(rendered.document["objects"])


def only(manifests: Manifests, kind: str) -> dict:
    (found,) = manifests.of_kind(kind)
    return found


def test_what_is_printed_keeps_the_rules(rendered):
    assert check(of(rendered)) == []


@needs_crds
def test_what_is_printed_is_taken_by_strict_schemas(rendered):
    assert list(complaints(rendered.document["objects"])) == []


def test_what_is_printed_is_yaml_that_check_reads(job, tmp_path):
    done = render(job)
    (tmp_path / "all.yaml").write_text(done.out)

    checked = muxtable("k8s", "check", tmp_path / "all.yaml")

    kinds = {each["kind"] for each in yaml.safe_load_all(done.out)}
    assert {"Namespace", "RayJob", "ConfigMap", "CronJob", "NetworkPolicy"} <= kinds
    assert "Deployment" not in kinds
    assert checked.code == 0
    assert "0 findings" in checked.out


def test_the_ranks_are_spread_over_their_pods(rendered):
    spec = only(of(rendered), "RayJob")["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    words = spec["entrypoint"].split()

    assert option(words, "--workers") == "4"
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    assert group["rayStartParams"]["num-cpus"] == "2"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "6"
    assert {"train.threads=3", "train.epochs=2"} <= set(words)


def test_memory_comes_from_the_plan(job, rendered):
    plan = muxtable("plan", job, "--set", "train.epochs=2", "--workers", 4, "--json").document

    peak = rendered.document["peak_bytes"]
    (group,) = only(of(rendered), "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    # The libraries are measured each time.
    assert peak == pytest.approx(plan["peak"]["peak_bytes"], rel=0.02)
    expected = (1 + HEADROOM) * (2 * (peak + RAY_RANK_BYTES) - LIBRARY_BYTES + RAY_NODE_BYTES)
    assert int(resources["limits"]["memory"].removesuffix("Mi")) == pytest.approx(
        expected / 2**20, abs=1
    )
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_the_job_file_travels_as_it_is(job, rendered):
    manifests = of(rendered)
    (config,) = manifests.of_kind("ConfigMap")
    head = next(pod for pod in manifests.ray_pods() if pod.owner.endswith("head"))
    (mount,) = (each for each in head.containers[0]["volumeMounts"] if each["name"] == "job")

    assert config["data"] == {"clicks.toml": job.read_text()}
    assert head.volume("job")["configMap"]["name"] == config["metadata"]["name"] == "clicks-job"
    assert mount["mountPath"] == "/job/clicks.toml"


def test_the_service_has_the_version_and_the_secrets_that_were_named(rendered):
    pod = only(of(rendered), "Deployment")["spec"]["template"]["spec"]
    secrets = {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}

    assert {"name": "MUXTABLE_VERSION", "value": "v-0000000007"} in pod["containers"][0]["env"]
    assert secrets == {"tls", "access"}


def test_the_size_of_a_version_here_is_that_of_its_files(job, tmp_path):
    name = write_version(tmp_path, 1, rows=500_000)

    done = render(job, "--serve-image", SERVE, "--version", tmp_path / name, *SECRETS, "--json")

    (deployment,) = of(done).of_kind("Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "MUXTABLE_VERSION", "value": name} in container["env"]
    assert done.document["pods"]["service"]["memory_bytes"] > 1.2 * 500_000 * 32
    assert container["args"][3] == "--pin=$(MUXTABLE_VERSION)"


def test_gpus_are_given_to_pods_and_to_ray(job):
    done = render(job, "--gpu", "--ranks-per-pod", 4, "--node", "gpu=4,cpu=16", "--json", workers=8)

    spec = only(of(done), "RayJob")["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == group["rayStartParams"]["num-gpus"] == "4"
    assert "train.device=cuda" in spec["entrypoint"]


def test_claims_that_are_there_are_used_and_not_made(job):
    done = render(job, "--data-claim", "lake", "--namespace", "ranking", "--json")

    manifests = of(done)
    made = {each["metadata"]["name"] for each in manifests.of_kind("PersistentVolumeClaim")}
    assert made == {"muxtable-runs", "muxtable-versions"}
    assert {each["metadata"].get("namespace") for each in manifests.namespaced()} == {"ranking"}
    assert all(
        pod.volume("data")["persistentVolumeClaim"]["claimName"] == "lake"
        for pod in manifests.ray_pods()
    )


@needs_crds
def test_versions_may_lie_in_a_bucket(job):
    where, keys = "s3://models/clicks", ("--bucket-secret", "keys")
    done = render(job, "--versions", where, *keys, *SERVICE, *SECRETS, "--json")

    manifests = of(done)
    pods = {pod.owner: pod for pod in manifests.pods()}
    service = pods["Deployment/muxtable"]
    export = pods["CronJob/clicks-export"]
    claims = {each["metadata"]["name"] for each in manifests.of_kind("PersistentVolumeClaim")}
    assert option(service.containers[0]["args"], "--follow") == where
    assert option(export.containers[0]["command"], "--out") == where
    assert claims == {"muxtable-data", "muxtable-runs"}
    for pod in (service, export, *manifests.ray_pods()):
        assert pod.containers[0]["envFrom"] == [{"secretRef": {"name": "keys"}}]
        assert "versions" not in [
            (volume.get("persistentVolumeClaim") or {}).get("claimName", "").rpartition("-")[2]
            for volume in pod.spec["volumes"]
        ]
    assert list(complaints(done.document["objects"])) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "n" * 48), "has 48 letters; KubeRay ignores a RayJob of more than 47"),
        (("--name", "My_Job"), '--name "My_Job" cannot be a name in Kubernetes'),
        (
            ("--gpu", "--ranks-per-pod", 4, "--node", "gpu=2"),
            "a pod of the worker asks for 4 GPUs, and a node has 2",
        ),
        (("--node", "memory=512MiB"), "bytes of memory, and a node has 536,870,912"),
        (("--node", "cpu=1"), "a pod of the head asks for 2 CPUs, and a node has 1"),
        (("--node", "gpus=2"), '--node: "gpus=2" is no part of a node'),
        (("--set", "data.streams=3"), "data.streams is 3, but there are 4 ranks"),
        (("--ranks-per-pod", 3), "--workers 4 do not fill pods of --ranks-per-pod 3"),
        (SERVICE, "the service wants TLS, and --tls-secret names no Secret"),
        ((*SERVICE, "--tls-secret", "tls"), "--access-secret names no Secret"),
        ((*SERVICE, "--tls-secret", "", "--access-secret", "a"), "--tls-secret names no Secret"),
        (("--serve-image", SERVE, *SECRETS), "--version names no version"),
        (("--serve-image", "serve:1.0", *SECRETS), '--serve-image "serve:1.0" may be another'),
        (("--set", "data.train=train/*.parquet"), 'data.train is "train/*.parquet"'),
        (("--set", "data.train=data/../x"), 'data.train is "data/../x"'),
        (("--set", "data.valid=s3://bucket/v"), "--bucket-secret names no Secret"),
        (("--set", "run.dir=/tmp/run"), 'run.dir is "/tmp/run"'),
        (("--set", "run.dir=s3://bucket/run"), 'run.dir is "s3://bucket/run"'),
        (("--set", "run.checkpoints=s3://bucket/c"), "--bucket-secret names no Secret"),
        (("--versions", "s3://bucket/v"), "--bucket-secret names no Secret"),
        (("--versions", "here", "--bucket-secret", "b"), '--versions "here" is no bucket'),
        (("--versions", "s3://b/v", "--versions-claim", "c"), "are two places"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(job, words, said):
    done = render(job, *words)

    assert done.code == 2
    assert said in done.err
    assert "fix: " in done.err
    assert done.out == ""


def test_an_image_by_a_tag_is_refused(job):
    done = render(job, image="registry.example/train:latest")

    assert done.code == 2
    assert "may be another image tomorrow" in done.err


def test_check_says_what_is_wrong_and_where(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n"
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: a}\n"
    )
    (tmp_path / "b.yaml").write_text("kind: [")

    done = muxtable("k8s", "check", tmp_path / "a.yaml", "--json")
    broken = muxtable("k8s", "check", tmp_path / "b.yaml")

    rules = {each["rule"] for each in done.document["findings"]}
    assert done.code == 2
    assert {"namespaces_are_restricted", "secrets_are_references"} <= rules
    assert broken.code == 2
    assert "is no YAML" in broken.err
