"""Manifests that are wrong in one place each: rule -> what is done to good ones."""

from collections.abc import Callable
from typing import Any

Objects = list[dict[str, Any]]
Mutation = Callable[[Objects], object]


def one(objects: Objects, kind: str, name: str | None = None) -> dict[str, Any]:
    """Returns an object of a kind."""
    return next(
        each
        for each in objects
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    )


def put(*path: str | int, value: Any, kind: str, name: str | None = None) -> Mutation:
    """Sets a field of an object."""

    def mutate(objects: Objects) -> None:
        node: Any = one(objects, kind, name)
        for key in path[:-1]:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        node[path[-1]] = value

    return mutate


def drop(*path: str | int, kind: str, name: str | None = None) -> Mutation:
    """Takes a field away from an object."""

    def mutate(objects: Objects) -> None:
        node: Any = one(objects, kind, name)
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return mutate


def without(kind: str, name: str | None = None) -> Mutation:
    """Takes an object away."""
    return lambda objects: objects.remove(one(objects, kind, name))


def argument(old: str, new: str | None) -> Mutation:
    """Replaces or removes an argument of the service."""

    def mutate(objects: Objects) -> None:
        words = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
        (place,) = (i for i, word in enumerate(words) if word.startswith(old))
        words[place : place + 1] = [] if new is None else [new]

    return mutate


_JOB = ("spec", "rayClusterSpec")
_HEAD = (*_JOB, "headGroupSpec", "template", "spec")
_GROUP = (*_JOB, "workerGroupSpecs", 0)
_WORKER = (*_GROUP, "template", "spec")
_SUBMITTER = ("spec", "submitterPodTemplate", "spec")
_CRON = ("spec", "jobTemplate", "spec", "template", "spec")
_POD = ("spec", "template", "spec")
_FIRST = ("containers", 0)
_CONTEXT = (*_FIRST, "securityContext")
_ANYBODY: dict[str, Any] = {"podSelector": {"matchLabels": {"a": "b"}}}
_SIDECAR = {"name": "init", "image": "busybox:latest"}
_BAD_CONDITION = {"policy": "DeleteSelf", "condition": {}}

MUTATIONS: dict[str, list[Mutation]] = {
    "pods_are_restricted": [
        drop(*_POD, "securityContext", "runAsNonRoot", kind="Deployment"),
        put(*_POD, "securityContext", "runAsUser", value=0, kind="Deployment"),
        put(*_HEAD, "securityContext", "runAsNonRoot", value=False, kind="RayJob"),
        drop(*_WORKER, "securityContext", "seccompProfile", kind="RayJob"),
        drop(*_SUBMITTER, "securityContext", kind="RayJob"),
        drop("spec", "headGroupSpec", "template", "spec", "securityContext", kind="RayCluster"),
        put(*_CRON, "hostNetwork", value=True, kind="CronJob"),
        put(*_POD, "hostPID", value=True, kind="StatefulSet"),
        put(
            *_POD, "volumes", 0, value={"name": "tmp", "hostPath": {"path": "/"}}, kind="Deployment"
        ),
    ],
    "containers_are_restricted": [
        put(*_POD, *_CONTEXT, "allowPrivilegeEscalation", value=True, kind="Deployment"),
        put(*_HEAD, *_CONTEXT, "capabilities", value={"add": ["NET_ADMIN"]}, kind="RayJob"),
        put(*_WORKER, *_CONTEXT, "capabilities", "add", value=["SYS_PTRACE"], kind="RayJob"),
        drop(*_SUBMITTER, *_CONTEXT, "runAsNonRoot", kind="RayJob"),
        drop(*_CRON, *_CONTEXT, "seccompProfile", kind="CronJob"),
        put(*_POD, *_CONTEXT, "privileged", value=True, kind="StatefulSet"),
        put(*_WORKER, "initContainers", value=[_SIDECAR], kind="RayJob"),
    ],
    "roots_are_read_only": [
        drop(*_POD, *_CONTEXT, "readOnlyRootFilesystem", kind="Deployment"),
        put(*_HEAD, *_CONTEXT, "readOnlyRootFilesystem", value=False, kind="RayJob"),
    ],
    "pods_have_no_api_token": [
        drop(*_POD, "automountServiceAccountToken", kind="Deployment"),
        put(*_SUBMITTER, "automountServiceAccountToken", value=True, kind="RayJob"),
        drop(*_WORKER, "serviceAccountName", kind="RayJob"),
        put(*_POD, "serviceAccountName", value="default", kind="StatefulSet"),
        drop("automountServiceAccountToken", kind="ServiceAccount"),
    ],
    "sizes_are_stated": [
        drop(*_POD, *_FIRST, "resources", kind="Deployment"),
        drop(*_WORKER, *_FIRST, "resources", "limits", "memory", kind="RayJob"),
        drop(*_HEAD, *_FIRST, "resources", "requests", "cpu", kind="RayJob"),
        put(*_CRON, *_FIRST, "resources", "requests", "memory", value="1Mi", kind="CronJob"),
    ],
    "images_are_fixed": [
        put(*_POD, *_FIRST, "image", value="registry.example/serve:1.0", kind="Deployment"),
        put(*_SUBMITTER, *_FIRST, "image", value="registry.example/train", kind="RayJob"),
        put(*_CRON, *_FIRST, "image", value="registry.example/train@sha256:0", kind="CronJob"),
    ],
    "buckets_are_reached": [
        without("NetworkPolicy", "bucket"),
        drop(*_HEAD[:-1], "metadata", "labels", "muxtable/bucket", kind="RayJob"),
        put(
            *(*_POD, *_FIRST, "envFrom"),
            value=[{"secretRef": {"name": "muxtable-bucket"}}],
            kind="Deployment",
        ),
    ],
    "scratch_is_bounded": [
        put(*_POD, "volumes", 0, value={"name": "tmp", "emptyDir": {}}, kind="Deployment"),
        drop(*_HEAD, "volumes", 1, "emptyDir", "sizeLimit", kind="RayJob"),
    ],
    "secrets_are_references": [
        lambda objects: objects.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s", "namespace": "muxtable"},
                "stringData": {"token": "t"},
            }
        ),
        put(
            *_HEAD, *_FIRST, "env", 0, value={"name": "RAY_AUTH_TOKEN", "value": "x"}, kind="RayJob"
        ),
        drop(*_POD, "volumes", 3, "secret", "secretName", kind="Deployment"),
        put(*_POD, "volumes", 4, "secret", "secretName", value="", kind="Deployment"),
    ],
    "config_maps_are_there": [
        without("ConfigMap", "muxtable-train-job"),
        put(
            *_POD,
            *_FIRST,
            "env",
            0,
            value={"name": "V", "valueFrom": {"configMapKeyRef": {"name": "other", "key": "v"}}},
            kind="Deployment",
        ),
    ],
    "ray_names_are_short": [
        put("metadata", "name", value="n" * 48, kind="RayJob"),
        put("metadata", "name", value="n" * 54, kind="RayCluster"),
        put("metadata", "name", value="Train", kind="RayJob"),
    ],
    "submission_modes_are_known": [
        put("spec", "submissionMode", value="Nope", kind="RayJob"),
        put("spec", "submissionMode", value="InteractiveMode", kind="RayJob"),
        drop("spec", "submissionMode", kind="RayJob"),
    ],
    "jobs_end": [
        drop("spec", "shutdownAfterJobFinishes", kind="RayJob"),
        put("spec", "shutdownAfterJobFinishes", value=False, kind="RayJob"),
        put("spec", "ttlSecondsAfterFinished", value=0, kind="RayJob"),
        drop("spec", "activeDeadlineSeconds", kind="RayJob"),
    ],
    "retries_are_stated": [
        drop("spec", "backoffLimit", kind="RayJob"),
        drop("spec", "submitterConfig", kind="RayJob"),
        put("spec", "submitterConfig", "backoffLimit", value=3, kind="RayJob"),
        drop("spec", "submitterPodTemplate", kind="RayJob"),
    ],
    "ray_wants_a_token": [
        drop(*_JOB, "authOptions", kind="RayJob"),
        put("spec", "authOptions", "mode", value="disabled", kind="RayCluster"),
        put(*_JOB, "rayVersion", value="2.54.1", kind="RayJob"),
        drop("spec", "rayVersion", kind="RayCluster"),
    ],
    "jobs_keep_no_head": [
        put(*_JOB, "gcsFaultToleranceOptions", value={"backend": "redis"}, kind="RayJob")
    ],
    "code_comes_with_the_image": [
        put("spec", "runtimeEnvYAML", value="pip: [muxtable]", kind="RayJob"),
        put("spec", "runtimeEnvYAML", value="working_dir: https://x/y.zip", kind="RayJob"),
        put("spec", "runtimeEnvYAML", value="conda: {}\nenv_vars: {}", kind="RayJob"),
    ],
    "shared_memory_is_memory": [
        drop(*_WORKER, *_FIRST, "volumeMounts", 1, kind="RayJob"),
        drop(*_HEAD, "volumes", 1, "emptyDir", "medium", kind="RayJob"),
    ],
    "ranks_fit_the_cluster": [
        put(*_GROUP, "replicas", value=3, kind="RayJob"),
        put(*_GROUP, "maxReplicas", value=9, kind="RayJob"),
        put(*_GROUP, "rayStartParams", "num-cpus", value="3", kind="RayJob"),
        put("spec", "entrypoint", value="muxtable train j --workers 8", kind="RayJob"),
        put(
            *("spec", "entrypoint"),
            value="muxtable train j --set train.threads=1 --workers 7",
            kind="RayJob",
        ),
        drop(*_JOB, "headGroupSpec", "rayStartParams", "num-cpus", kind="RayJob"),
    ],
    "gpus_are_counted_twice": [
        put(*_GROUP, "rayStartParams", "num-gpus", value="8", kind="RayJob"),
        drop(*_WORKER, *_FIRST, "resources", "limits", "nvidia.com/gpu", kind="RayJob"),
        put(*_GROUP, "rayStartParams", "num-cpus", value="8", kind="RayJob"),
    ],
    "nodes_run_one_image": [
        put(*_WORKER, *_FIRST, "image", value="other@sha256:" + "0" * 64, kind="RayJob")
    ],
    "an_autoscaler_is_restricted": [
        put("spec", "enableInTreeAutoscaling", value=True, kind="RayCluster"),
        put(*_JOB, "enableInTreeAutoscaling", value=True, kind="RayJob"),
    ],
    "managers_are_known": [
        put("spec", "managedBy", value="me", kind="RayJob"),
        put("spec", "managedBy", value="me", kind="RayCluster"),
        put(*_JOB, "managedBy", value="me", kind="RayJob"),
    ],
    "deletion_is_said_one_way": [
        put("spec", "deletionStrategy", value={}, kind="RayJob"),
        put("spec", "deletionStrategy", value={"onSuccess": {}}, kind="RayJob"),
        put(
            *("spec", "deletionStrategy"),
            value={"onSuccess": {}, "onFailure": {}, "deletionRules": []},
            kind="RayJob",
        ),
        put("spec", "deletionStrategy", value={"deletionRules": [_BAD_CONDITION]}, kind="RayJob"),
        put(
            *("spec", "deletionStrategy", "deletionRules"),
            value=[{"condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}],
            kind="RayJob",
        ),
    ],
    "a_roll_takes_no_pod_away": [
        put("spec", "strategy", "rollingUpdate", "maxUnavailable", value=1, kind="Deployment"),
        put("spec", "strategy", "rollingUpdate", "maxSurge", value=0, kind="Deployment"),
        put("spec", "strategy", value={"type": "Recreate"}, kind="Deployment"),
    ],
    "probes_ask_what_they_should": [
        drop(*_POD, *_FIRST, "startupProbe", kind="Deployment"),
        drop(*_POD, *_FIRST, "readinessProbe", "grpc", "service", kind="Deployment"),
        drop(*_POD, *_FIRST, "livenessProbe", kind="Deployment"),
        put(
            *_POD, *_FIRST, "livenessProbe", "grpc", "service", value="readiness", kind="Deployment"
        ),
    ],
    "pods_have_time_to_drain": [
        put(*_POD, "terminationGracePeriodSeconds", value=30, kind="Deployment"),
        drop(*_POD, "terminationGracePeriodSeconds", kind="Deployment"),
        argument("--grace-s", "--grace-s=60"),
        lambda objects: (
            argument("--drain-s", None)(objects),
            drop(*_POD, *_FIRST, "lifecycle", kind="Deployment")(objects),
        ),
    ],
    "services_are_headless": [
        drop("spec", "clusterIP", kind="Service", name="muxtable"),
        drop("spec", "selector", kind="Service", name="muxtable"),
        put("spec", "selector", value={"app": "other"}, kind="Service", name="muxtable"),
        put("spec", "ports", 0, "targetPort", value="http", kind="Service", name="muxtable"),
        put("spec", "ports", 0, "port", value=50053, kind="Service", name="muxtable"),
    ],
    "budgets_leave_a_pod": [
        put("spec", "maxUnavailable", value=2, kind="PodDisruptionBudget"),
        put("spec", "selector", value={"matchLabels": {"app": "x"}}, kind="PodDisruptionBudget"),
        put("spec", "selector", value={}, kind="PodDisruptionBudget"),
        put("spec", "replicas", value=1, kind="Deployment"),
    ],
    "several_pods_have_a_budget": [
        without("PodDisruptionBudget"),
        put("spec", "selector", value={"matchLabels": {"app": "x"}}, kind="PodDisruptionBudget"),
    ],
    "autoscalers_have_a_target": [
        put("spec", "scaleTargetRef", "name", value="other", kind="HorizontalPodAutoscaler"),
        put("spec", "minReplicas", value=1, kind="HorizontalPodAutoscaler"),
        put("spec", "maxReplicas", value=1, kind="HorizontalPodAutoscaler"),
    ],
    "calls_are_encrypted": [
        argument("--tls-cert", "--insecure"),
        argument("--tls-key", None),
        argument("--access", "--access=/tmp/access"),
        drop(*_POD, "volumes", 3, "secret", kind="Deployment"),
    ],
    "replicas_agree_on_a_version": [
        argument("--policy", "--policy=latest"),
        argument("--pin", None),
    ],
    "serving_threads_are_stated": [
        argument("--threads", None),
        argument("--threads", "--threads=16"),
    ],
    "pods_are_spread": [drop(*_POD, "topologySpreadConstraints", kind="Deployment")],
    "published_versions_are_read_only": [
        lambda objects: (
            argument("--follow=", "--follow=/etc/muxtable/follow")(objects),
            drop(*_POD, *_FIRST, "volumeMounts", 2, "readOnly", kind="Deployment")(objects),
        )
    ],
    "monitors_find_metrics": [
        put("spec", "endpoints", 0, "port", value="http", kind="ServiceMonitor"),
        put("spec", "selector", "matchLabels", value={"app": "x"}, kind="ServiceMonitor"),
    ],
    "namespaces_are_restricted": [
        put("metadata", "labels", value={}, kind="Namespace"),
        put(
            *("metadata", "labels", "pod-security.kubernetes.io/enforce"),
            value="baseline",
            kind="Namespace",
        ),
    ],
    "one_namespace_holds_all": [
        put("metadata", "namespace", value="other", kind="Deployment"),
        drop("metadata", "namespace", kind="RayJob"),
        put("metadata", "name", value="other", kind="Namespace"),
    ],
    "nothing_is_open_by_default": [
        without("NetworkPolicy", "default-deny"),
        put("spec", "policyTypes", value=["Ingress"], kind="NetworkPolicy", name="default-deny"),
        put("spec", "ingress", value=[{}], kind="NetworkPolicy", name="default-deny"),
        put("spec", "egress", value=[{}], kind="NetworkPolicy", name="default-deny"),
        put("spec", "podSelector", value=_ANYBODY, kind="NetworkPolicy", name="default-deny"),
    ],
    "names_are_resolved": [
        without("NetworkPolicy", "allow-dns"),
        drop("spec", "egress", 0, "ports", 0, kind="NetworkPolicy", name="allow-dns"),
        drop("spec", "egress", 0, "ports", 1, kind="NetworkPolicy", name="allow-dns"),
        put("spec", "podSelector", value=_ANYBODY, kind="NetworkPolicy", name="allow-dns"),
    ],
    "policies_say_from_whom": [
        drop("spec", "ingress", 0, "from", kind="NetworkPolicy", name="serve"),
        put("spec", "ingress", 0, "from", value=[], kind="NetworkPolicy", name="ray-inside"),
        drop("spec", "egress", 0, "to", kind="NetworkPolicy", name="bucket"),
    ],
    "only_the_service_is_reached": [
        put("spec", "ingress", 0, "ports", 0, "port", value=22, kind="NetworkPolicy", name="serve"),
        drop("spec", "ingress", 0, "ports", kind="NetworkPolicy", name="serve"),
        put(
            "spec", "ingress", 0, "from", 0, value=_ANYBODY, kind="NetworkPolicy", name="ray-inside"
        ),
        put(
            *("spec", "ingress", 0, "from", 0, "namespaceSelector"),
            value={},
            kind="NetworkPolicy",
            name="ray-inside",
        ),
        put(
            *("spec", "ingress", 0, "ports", 0, "port"),
            value=10001,
            kind="NetworkPolicy",
            name="ray-job-server",
        ),
    ],
    "claims_are_there": [
        without("PersistentVolumeClaim", f"muxtable-{name}")
        for name in ("data", "runs", "versions")
    ],
}
