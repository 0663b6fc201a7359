"""Manifests of one job and of one service: the base with names, images and sizes put in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch.k8s.base import read_base
from launch.k8s.manifests import Object
from launch.k8s.sizes import PodSize

BASE_TRAIN = "muxtable-train"
_GPU = "nvidia.com/gpu"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Volumes that are there, or that are to be made."""

    data: str = "muxtable-data"
    runs: str = "muxtable-runs"
    versions: str = "muxtable-versions"

    def renamed(self) -> dict[str, str]:
        """Returns the names of the base -> these."""
        own = Claims()
        return {own.data: self.data, own.runs: self.runs, own.versions: self.versions}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A job as it is to run in the cluster."""

    name: str
    image: str
    job_name: str
    """Name of the job file, in the folder /job of the pods."""
    job_text: str
    overrides: Sequence[str]
    run_dir: str
    workers: int
    ranks_per_pod: int
    threads: int
    pod: PodSize
    head: PodSize
    export: PodSize
    bucket_secret: str | None = None
    versions: str | None = None
    """Bucket that versions are exported to; None: the claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A service as it is to run in the cluster."""

    image: str
    version: str
    replicas: int
    threads: int
    tls_secret: str
    access_secret: str
    pod: PodSize
    version_bytes: int
    bucket_secret: str | None = None
    versions: str | None = None
    """Bucket that versions are taken from; None: the claim."""


def render_ground(claims: Claims, *, has_bucket: bool, has_versions: bool) -> list[Object]:
    """Returns namespace, accounts, policies, and the claims that are not said to be there.

    `has_bucket`: some pods reach a bucket. `has_versions`: versions lie on a claim.
    """
    files = ("namespace", "accounts", "network", "network-ray", "claims")
    objects = [each for name in files for each in read_base(f"base/namespace/{name}.yaml")]
    if has_bucket:
        objects += read_base("components/bucket/network.yaml")
    made = {old for old, new in claims.renamed().items() if old == new}
    if not has_versions:
        made.discard(Claims().versions)
    return [
        each
        for each in objects
        if each["kind"] != "PersistentVolumeClaim" or each["metadata"]["name"] in made
    ]


def render_training(training: Training) -> list[Object]:
    """Returns the RayJob, its job file, and what exports its run."""
    (job,) = read_base("base/train/rayjob.yaml")
    (export,) = read_base("base/train/export.yaml")
    files = f"{training.name}-job"
    job["metadata"]["name"] = training.name
    spec = job["spec"]
    spec["entrypoint"] = entrypoint(training)
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    pods = training.workers // training.ranks_per_pod
    group |= {"replicas": pods, "minReplicas": pods, "maxReplicas": pods}
    group["rayStartParams"]["num-cpus"] = str(training.ranks_per_pod)
    worker = group["template"]["spec"]
    if training.pod.gpus:
        group["rayStartParams"]["num-gpus"] = str(training.pod.gpus)
        worker["tolerations"] = [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}]
    for pod, size in ((head, training.head), (worker, training.pod)):
        _resize(pod, size)
        _mount_job(pod, training.job_name, files)
    export["metadata"]["name"] = f"{training.name}-export"
    export_template = export["spec"]["jobTemplate"]["spec"]["template"]
    exporter = export_template["spec"]
    _resize(exporter, training.export)
    words: list[str] = exporter["containers"][0]["command"]
    words[words.index("export") + 1] = training.run_dir
    if training.versions is not None:
        words[words.index("--out") + 1] = training.versions
        _unmount(exporter, "versions")
    if training.bucket_secret is not None:
        for template in (
            spec["rayClusterSpec"]["headGroupSpec"]["template"],
            group["template"],
            export_template,
        ):
            _open_bucket(template, training.bucket_secret)
    objects = [_config_map(files, {training.job_name: training.job_text}), job, export]
    _put_image(objects, BASE_TRAIN, training.image)
    return objects


def entrypoint(training: Training) -> str:
    """Returns the command line of the driver."""
    words = ["python", "-m", "muxtable", "train", f"/job/{training.job_name}"]
    words += ["--workers", str(training.workers)]
    overrides = [*training.overrides, f"train.threads={training.threads}"]
    if training.pod.gpus:
        overrides.append("train.device=cuda")
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)


def render_service(serving: Serving) -> list[Object]:
    """Returns the Deployment of the service and what keeps it available."""
    files = ("deployment", "service", "availability", "network")
    objects = [each for name in files for each in read_base(f"base/serve/{name}.yaml")]
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    deployment["spec"]["replicas"] = serving.replicas
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _resize(pod, serving.pod)
    # A version is copied while a half copy of it may still lie there.
    disk = f"{-(-2 * serving.version_bytes // _MIB) + 64}Mi"
    container["resources"]["requests"]["ephemeral-storage"] = disk
    container["resources"]["limits"]["ephemeral-storage"] = disk
    _volume(pod, "own")["emptyDir"] = {"sizeLimit": disk}
    _volume(pod, "tls")["secret"]["secretName"] = serving.tls_secret
    _volume(pod, "access")["secret"]["secretName"] = serving.access_secret
    (version,) = (each for each in container["env"] if each["name"] == "MUXTABLE_VERSION")
    version["value"] = serving.version
    container["args"] = [
        f"--threads={serving.threads}" if word.startswith("--threads=") else word
        for word in container["args"]
    ]
    if serving.versions is not None and serving.bucket_secret is not None:
        container["args"] = [
            f"--follow={serving.versions}" if word.startswith("--follow=") else word
            for word in container["args"]
        ]
        _unmount(pod, "published")
        _open_bucket(deployment["spec"]["template"], serving.bucket_secret)
    if serving.replicas < 2:
        objects = [each for each in objects if each["kind"] not in _FOR_SEVERAL]
    else:
        (scaler,) = (each for each in objects if each["kind"] == "HorizontalPodAutoscaler")
        scaler["spec"]["minReplicas"] = serving.replicas
        scaler["spec"]["maxReplicas"] = max(scaler["spec"]["maxReplicas"], serving.replicas)
    _put_image(objects, "muxtable-serve", serving.image)
    return objects


# One pod has nothing to keep available.
_FOR_SEVERAL = ("PodDisruptionBudget", "HorizontalPodAutoscaler")


def placed(objects: list[Object], namespace: str, claims: Claims) -> list[Object]:
    """Puts all objects into a namespace, and their pods onto these claims."""
    renamed = claims.renamed()
    for each in objects:
        if each["kind"] == "Namespace":
            each["metadata"]["name"] = namespace
        else:
            each["metadata"]["namespace"] = namespace
        for claim in _find(each, "claimName"):
            claim["claimName"] = renamed[claim["claimName"]]
    return objects


def _config_map(name: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "muxtable"}},
        "data": data,
    }


def _resize(pod: Object, size: PodSize) -> None:
    resources = pod["containers"][0]["resources"]
    for said in (resources["requests"], resources["limits"]):
        said |= {"cpu": str(size.cpus), "memory": size.memory}
        if size.gpus:
            said[_GPU] = str(size.gpus)


def _mount_job(pod: Object, job_name: str, config_map: str) -> None:
    _volume(pod, "job")["configMap"]["name"] = config_map
    mounts = pod["containers"][0]["volumeMounts"]
    (mount,) = (each for each in mounts if each["name"] == "job")
    mount |= {"mountPath": f"/job/{job_name}", "subPath": job_name}


def _open_bucket(template: Object, secret: str) -> None:
    """Gives a pod the keys of a bucket, and the label by which it may reach one."""
    template["metadata"]["labels"]["muxtable/bucket"] = "true"
    template["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": secret}}]


def _unmount(pod: Object, name: str) -> None:
    """Takes a volume out of a pod."""
    for owner, key in ((pod, "volumes"), (pod["containers"][0], "volumeMounts")):
        owner[key] = [each for each in owner[key] if each["name"] != name]


def _volume(pod: Object, name: str) -> Object:
    found: list[Object] = [each for each in pod["volumes"] if each["name"] == name]
    (volume,) = found
    return volume


def _put_image(objects: list[Object], name: str, image: str) -> None:
    for each in objects:
        for container in _find(each, "image"):
            if container["image"] == name:
                container["image"] = image


def _find(tree: Any, key: str) -> list[Object]:
    """Returns the mappings of a tree that have a key."""
    if isinstance(tree, dict):
        found = [tree] if isinstance(tree.get(key), str) else []
        return found + [each for value in tree.values() for each in _find(value, key)]
    if isinstance(tree, list):
        return [each for value in tree for each in _find(value, key)]
    return []
