"""Rules for every pod: the restricted profile on each container, fixed images, stated sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launch.k8s.manifests import Manifests, Object, PodTemplate, name_of
from launch.k8s.rules import Finding, rule

_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|PRIVATE", re.IGNORECASE)
_HOST = ("hostNetwork", "hostPID", "hostIPC")
_SIZED = ("cpu", "memory")


def _each(manifests: Manifests) -> Iterator[tuple[PodTemplate, Object, str]]:
    for pod in manifests.pods():
        for container in pod.containers:
            yield pod, container, f"{pod.owner}: {container['name']}"


@rule
def pods_are_restricted(manifests: Manifests) -> Iterator[Finding]:
    """A pod names a user that is not root and a seccomp profile, and shares nothing of its node."""
    for pod in manifests.pods():
        context = pod.spec.get("securityContext") or {}
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield Finding(pod.owner, "may run as root", "set runAsNonRoot and runAsUser")
        if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield Finding(pod.owner, "has no seccomp profile", "set seccompProfile: RuntimeDefault")
        shared = [name for name in _HOST if pod.spec.get(name)]
        shared += [each["name"] for each in pod.spec.get("volumes") or [] if "hostPath" in each]
        if shared:
            yield Finding(pod.owner, f"shares {', '.join(shared)} of its node", "leave that out")


@rule
def containers_are_restricted(manifests: Manifests) -> Iterator[Finding]:
    """Each container says so itself, too: operators copy its context into containers they add."""
    for _, container, where in _each(manifests):
        context = container.get("securityContext") or {}
        capabilities = context.get("capabilities") or {}
        sound = {
            "runAsNonRoot: true": context.get("runAsNonRoot") is True,
            "allowPrivilegeEscalation: false": context.get("allowPrivilegeEscalation") is False,
            "capabilities: {drop: [ALL]}": capabilities == {"drop": ["ALL"]},
            "seccompProfile: RuntimeDefault": context.get("seccompProfile")
            == {"type": "RuntimeDefault"},
            "privileged: false": not context.get("privileged"),
        }
        for wanted, is_so in sound.items():
            if not is_so:
                yield Finding(where, f"is not restricted: no {wanted}", "set it in securityContext")


@rule
def roots_are_read_only(manifests: Manifests) -> Iterator[Finding]:
    """What a container writes goes into its volumes."""
    for _, container, where in _each(manifests):
        context = container.get("securityContext") or {}
        if context.get("readOnlyRootFilesystem") is not True:
            yield Finding(where, "can write into its image", "set readOnlyRootFilesystem: true")


@rule
def pods_have_no_api_token(manifests: Manifests) -> Iterator[Finding]:
    """No pod of ours calls the API server, so none has an account's token."""
    for pod in manifests.pods():
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield Finding(
                pod.owner, "gets its account's token", "set automountServiceAccountToken: false"
            )
        if pod.spec.get("serviceAccountName", "default") == "default":
            yield Finding(pod.owner, "uses the default account", "name a serviceAccountName")
    for account in manifests.of_kind("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield Finding(
                name_of(account), "gives its token away", "set automountServiceAccountToken: false"
            )


@rule
def sizes_are_stated(manifests: Manifests) -> Iterator[Finding]:
    """CPU and memory have requests and limits; of memory as much is reserved as may be used."""
    for _, container, where in _each(manifests):
        resources = container.get("resources") or {}
        requests, limits = (resources.get(kind) or {} for kind in ("requests", "limits"))
        missing = [
            f"{kind}.{name}"
            for kind, said in (("requests", requests), ("limits", limits))
            for name in _SIZED
            if name not in said
        ]
        if missing:
            yield Finding(where, f"does not state {', '.join(missing)}", "state them in resources")
        elif requests["memory"] != limits["memory"]:
            yield Finding(
                where,
                f"reserves {requests['memory']} of memory and may use {limits['memory']}",
                "make them equal: a node cannot take memory back from a table",
            )


@rule
def images_are_fixed(manifests: Manifests) -> Iterator[Finding]:
    """Every image is named by its digest: nodes and attempts run the same code."""
    for _, container, where in _each(manifests):
        if not _DIGEST.fullmatch(container.get("image") or ""):
            yield Finding(
                where,
                f'runs the image "{container.get("image")}", which may change',
                "name it by digest: REGISTRY/NAME@sha256:...",
            )


@rule
def scratch_is_bounded(manifests: Manifests) -> Iterator[Finding]:
    """A folder of the pod's own takes no more of the node than it says."""
    for pod in manifests.pods():
        for volume in pod.spec.get("volumes") or []:
            if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
                yield Finding(
                    pod.owner, f"may fill the node through {volume['name']}", "set a sizeLimit"
                )


@rule
def secrets_are_references(manifests: Manifests) -> Iterator[Finding]:
    """No secret stands in a manifest, and whoever needs one names it."""
    for secret in manifests.of_kind("Secret"):
        yield Finding(
            name_of(secret), "holds a secret in a manifest", "make it in the cluster, and name it"
        )
    for pod, container, where in _each(manifests):
        for variable in container.get("env") or []:
            if _SECRET_NAME.search(variable["name"]) and "value" in variable:
                yield Finding(
                    where, f"has {variable['name']} in plain text", "use a secretKeyRef instead"
                )
        for mount in container.get("volumeMounts") or []:
            volume = pod.volume(mount["name"])
            if "secret" in volume and not volume["secret"].get("secretName"):
                yield Finding(where, f"mounts {mount['name']} of no Secret", "name it: secretName")


@rule
def config_maps_are_there(manifests: Manifests) -> Iterator[Finding]:
    """What a pod takes from a ConfigMap is applied with it."""
    there = {each["metadata"]["name"] for each in manifests.of_kind("ConfigMap")}
    for pod in manifests.pods():
        named = {
            (volume["configMap"] or {}).get("name")
            for volume in pod.spec.get("volumes") or []
            if "configMap" in volume
        }
        for container in pod.containers:
            for variable in container.get("env") or []:
                reference = (variable.get("valueFrom") or {}).get("configMapKeyRef")
                if reference is not None:
                    named.add(reference["name"])
        for name in sorted(map(str, named - there)):
            yield Finding(pod.owner, f"needs ConfigMap/{name}", "apply it, too")
