"""Rules for RayJob and RayCluster: what KubeRay's schema lets through and then does not do.

Numbers in brackets are issues of ray-project/kuberay. The expressions (CEL) of its CRDs that matter
to us are written out, as nothing but an API server evaluates them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from launch.k8s.manifests import Manifests, Object, name_of, option
from launch.k8s.rules import Finding, rule

# Longer ones are never reconciled, and never fail [3083, 3980].
MOST_LETTERS = {"RayJob": 47, "RayCluster": 53}
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode")
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
# Below it whoever reads a Parquet file may run code.
_OLDEST_RAY = (2, 55)


@rule
def ray_names_are_short(manifests: Manifests) -> Iterator[Finding]:
    """KubeRay makes longer names of them, and gives up silently."""
    for each in manifests.of_kind(*MOST_LETTERS):
        name, most = each["metadata"]["name"], MOST_LETTERS[each["kind"]]
        if len(name) > most:
            yield Finding(
                name_of(each),
                f"the name has {len(name)} letters; KubeRay ignores a {each['kind']} of more than "
                f"{most}",
                "choose a shorter name",
            )
        if not _NAME.fullmatch(name):
            yield Finding(
                name_of(each), "the name cannot be that of a service", "use a-z, 0-9 and -"
            )


@rule
def submission_modes_are_known(manifests: Manifests) -> Iterator[Finding]:
    """The schema takes any text, and the operator then does nothing."""
    for each in manifests.of_kind("RayJob"):
        mode = each["spec"].get("submissionMode")
        if mode not in _MODES:
            yield Finding(
                name_of(each), f"submissionMode {mode} is none", f"use {', '.join(_MODES)}"
            )


@rule
def jobs_end(manifests: Manifests) -> Iterator[Finding]:
    """The cluster of a job ends with it, is deleted, and never hangs for ever [2161, 3860]."""
    for each in manifests.of_kind("RayJob"):
        spec, where = each["spec"], name_of(each)
        if spec.get("shutdownAfterJobFinishes") is not True:
            yield Finding(where, "leaves its cluster behind", "set shutdownAfterJobFinishes: true")
        for name in ("ttlSecondsAfterFinished", "activeDeadlineSeconds"):
            if not spec.get(name):
                yield Finding(where, f"has no {name}", "set it, above 0")


@rule
def retries_are_stated(manifests: Manifests) -> Iterator[Finding]:
    """Two limits with defaults of their own: new clusters, and new submitters [2091, 2192]."""
    for each in manifests.of_kind("RayJob"):
        spec, where = each["spec"], name_of(each)
        if not spec.get("backoffLimit"):
            yield Finding(
                where, "is not tried again after a lost head", "set backoffLimit: it resumes"
            )
        submitter = (spec.get("submitterConfig") or {}).get("backoffLimit")
        if submitter is None or not 0 <= submitter <= 2:
            yield Finding(
                where, "does not say how often it is submitted", "set submitterConfig.backoffLimit"
            )
        if "submitterPodTemplate" not in spec and spec.get("submissionMode") == "K8sJobMode":
            yield Finding(
                where,
                "leaves its submitter to the operator, which restricts nothing",
                "write a submitterPodTemplate",
            )


@rule
def ray_wants_a_token(manifests: Manifests) -> Iterator[Finding]:
    """Whoever reaches the ports of a cluster without one runs code on it."""
    for name, spec in manifests.ray_clusters():
        if (spec.get("authOptions") or {}).get("mode") != "token":
            yield Finding(name, "takes jobs from anybody", "set authOptions: {mode: token}")
        numbers = re.findall(r"\d+", str(spec.get("rayVersion", "")))[:2]
        if tuple(map(int, numbers)) < _OLDEST_RAY:
            oldest = ".".join(map(str, _OLDEST_RAY))
            yield Finding(name, f"rayVersion is below {oldest}", "use the image's release")


@rule
def jobs_keep_no_head(manifests: Manifests) -> Iterator[Finding]:
    """A job's head is never made again: fault tolerance of its GCS does nothing [4025, 4175]."""
    for each in manifests.of_kind("RayJob"):
        if "gcsFaultToleranceOptions" in (each["spec"].get("rayClusterSpec") or {}):
            yield Finding(
                name_of(each),
                "has gcsFaultToleranceOptions, which do nothing in a RayJob",
                "leave them out: a retry goes on from the last checkpoint",
            )


@rule
def code_comes_with_the_image(manifests: Manifests) -> Iterator[Finding]:
    """Nothing is downloaded when a job starts."""
    import yaml

    for each in manifests.of_kind("RayJob"):
        environment = yaml.safe_load(each["spec"].get("runtimeEnvYAML") or "{}")
        others = sorted(set(environment) - {"env_vars"})
        if others:
            yield Finding(
                name_of(each),
                f"fetches {', '.join(others)} when it starts",
                "build it into the image; runtimeEnvYAML has env_vars only",
            )


@rule
def shared_memory_is_memory(manifests: Manifests) -> Iterator[Finding]:
    """Without it Ray's object store lies on disk, or in 64 MiB."""
    for pod in manifests.ray_pods():
        mounts = pod.containers[0].get("volumeMounts") or []
        name = next((each["name"] for each in mounts if each["mountPath"] == "/dev/shm"), "")  # noqa: S108
        store = pod.volume(name).get("emptyDir") or {}
        if store.get("medium") != "Memory":
            yield Finding(
                pod.owner, "has no /dev/shm in memory", "mount an emptyDir of medium Memory there"
            )


@rule
def ranks_fit_the_cluster(manifests: Manifests) -> Iterator[Finding]:
    """As many ranks as --workers says have a CPU of Ray's, none of them on the head."""
    for each in manifests.of_kind("RayJob"):
        spec, where = each["spec"], name_of(each)
        words = shlex.split(spec.get("entrypoint") or "")
        cluster = spec.get("rayClusterSpec") or {}
        room = sum(_room(group) for group in cluster.get("workerGroupSpecs") or [])
        workers = int(option(words, "--workers") or 1)
        if room != workers:
            yield Finding(
                where,
                f"--workers {workers}, and the pods have room for {room} ranks",
                "make replicas x num-cpus equal to --workers",
            )
        if not any(word.startswith("train.threads=") for word in words):
            yield Finding(
                where,
                "each rank would take as many threads as its node has cores",
                "add --set train.threads=N, the CPUs of a rank",
            )
        head = (cluster.get("headGroupSpec") or {}).get("rayStartParams") or {}
        if head.get("num-cpus") != "0":
            yield Finding(where, "the head takes ranks, too", 'set its num-cpus: "0"')


def _room(group: Object) -> int:
    """Ranks of a worker group that is not to grow or shrink; 0 for one that may."""
    sizes = {int(group.get(name, -1)) for name in ("replicas", "minReplicas", "maxReplicas")}
    ranks = int((group.get("rayStartParams") or {}).get("num-cpus", 0))
    return ranks * sizes.pop() if len(sizes) == 1 else 0


@rule
def gpus_are_counted_twice(manifests: Manifests) -> Iterator[Finding]:
    """Ray hands out as many GPUs as the pod has, one for each rank."""
    for name, spec in manifests.ray_clusters():
        for group in spec.get("workerGroupSpecs") or []:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            has = int(limits.get("nvidia.com/gpu", 0))
            said = group.get("rayStartParams") or {}
            if has != int(said.get("num-gpus", 0)) or (has and said.get("num-cpus") != str(has)):
                yield Finding(
                    f"{name}: {group['groupName']}",
                    f"has {has} GPUs, and Ray is told num-gpus {said.get('num-gpus', 0)} and "
                    f"num-cpus {said.get('num-cpus')}",
                    "make the three equal",
                )


@rule
def nodes_run_one_image(manifests: Manifests) -> Iterator[Finding]:
    """A rank of one release cannot talk to a rank of another."""
    for name, spec in manifests.ray_clusters():
        groups = [spec["headGroupSpec"], *(spec.get("workerGroupSpecs") or [])]
        images = {group["template"]["spec"]["containers"][0].get("image") for group in groups}
        if len(images) > 1:
            yield Finding(name, "its pods run different images", "use one image for all")


@rule
def an_autoscaler_is_restricted(manifests: Manifests) -> Iterator[Finding]:
    """The operator adds it as a container with a context of its own [750, 1896]."""
    for name, spec in manifests.ray_clusters():
        if spec.get("enableInTreeAutoscaling"):
            context = (spec.get("autoscalerOptions") or {}).get("securityContext") or {}
            if context.get("allowPrivilegeEscalation") is not False:
                yield Finding(
                    name,
                    "its autoscaler is not restricted",
                    "write autoscalerOptions.securityContext, or leave the autoscaler out",
                )


@rule
def managers_are_known(manifests: Manifests) -> Iterator[Finding]:
    """CEL: managedBy is one of two."""
    for each in manifests.of_kind("RayJob", "RayCluster"):
        inner = each["spec"].get("rayClusterSpec") or {}
        for spec in (each["spec"], inner):
            if spec.get("managedBy", _MANAGERS[0]) not in _MANAGERS:
                yield Finding(
                    name_of(each), f"managedBy {spec['managedBy']}", f"use {_MANAGERS[0]}"
                )


@rule
def deletion_is_said_one_way(manifests: Manifests) -> Iterator[Finding]:
    """CEL: both of onSuccess and onFailure, or deletionRules with one condition each."""
    for each in manifests.of_kind("RayJob"):
        strategy: dict[str, Any] | None = each["spec"].get("deletionStrategy")
        if strategy is None:
            continue
        legacy = [name for name in ("onSuccess", "onFailure") if name in strategy]
        rules = strategy.get("deletionRules")
        if (rules is None) != (len(legacy) == 2) or (rules is not None and legacy):
            yield Finding(
                name_of(each),
                "deletionStrategy mixes its two forms, or is half of one",
                "write onSuccess and onFailure, or deletionRules",
            )
        for one in rules or []:
            if len({"jobStatus", "jobDeploymentStatus"} & set(one["condition"])) != 1:
                yield Finding(
                    name_of(each),
                    "a rule of deletionStrategy has not one condition",
                    "write jobStatus or jobDeploymentStatus",
                )
