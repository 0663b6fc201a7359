"""Kubernetes objects as they stand in YAML, and the pods inside them, whatever kind makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

# Cluster-wide, so without a namespace.
_CLUSTER_WIDE = frozenset({"Namespace"})


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """A pod that some object makes."""

    owner: str
    """Kind/name and which of its pods: "RayJob/train: head"."""
    template: Object

    @property
    def spec(self) -> Object:
        """The pod's spec."""
        return dict(self.template.get("spec") or {})

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return dict((self.template.get("metadata") or {}).get("labels") or {})

    @property
    def containers(self) -> list[Object]:
        """Its containers, those that come first included."""
        return [*(self.spec.get("initContainers") or []), *(self.spec.get("containers") or [])]

    def volume(self, name: str) -> Object:
        """Returns a volume by its name, {} where there is none."""
        return next((each for each in self.spec.get("volumes") or [] if each["name"] == name), {})


@dataclass(frozen=True, slots=True)
class Manifests:
    """Objects that are applied together."""

    objects: Sequence[Object]

    def of_kind(self, *kinds: str) -> Iterator[Object]:
        """Yields the objects of these kinds."""
        return (each for each in self.objects if each["kind"] in kinds)

    def namespaced(self) -> Iterator[Object]:
        """Yields the objects that live in a namespace."""
        return (each for each in self.objects if each["kind"] not in _CLUSTER_WIDE)

    def ray_clusters(self) -> Iterator[tuple[str, Object]]:
        """Yields the Ray clusters, those of jobs included, with the names of their objects."""
        for each in self.of_kind("RayCluster"):
            yield name_of(each), each["spec"]
        for each in self.of_kind("RayJob"):
            if "rayClusterSpec" in each["spec"]:
                yield name_of(each), each["spec"]["rayClusterSpec"]

    def ray_pods(self) -> Iterator[PodTemplate]:
        """Yields the heads and workers of all Ray clusters."""
        for name, spec in self.ray_clusters():
            if "headGroupSpec" in spec:
                yield PodTemplate(f"{name}: head", spec["headGroupSpec"]["template"])
            for group in spec.get("workerGroupSpecs") or []:
                yield PodTemplate(f"{name}: {group['groupName']}", group["template"])

    def pods(self) -> Iterator[PodTemplate]:
        """Yields every pod that these objects make."""
        for each in self.of_kind("Deployment", "StatefulSet", "Job"):
            yield PodTemplate(name_of(each), each["spec"]["template"])
        for each in self.of_kind("CronJob"):
            yield PodTemplate(name_of(each), each["spec"]["jobTemplate"]["spec"]["template"])
        for each in self.of_kind("RayJob"):
            if "submitterPodTemplate" in each["spec"]:
                owner = f"{name_of(each)}: submitter"
                yield PodTemplate(owner, each["spec"]["submitterPodTemplate"])
        yield from self.ray_pods()


def name_of(thing: Object) -> str:
    """Returns "Kind/name"."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


def is_selected(labels: dict[str, str], selector: Object) -> bool:
    """Whether a pod with these labels is meant by a selector; {} means all."""
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    )


def option(words: Sequence[str], name: str) -> str | None:
    """Returns the value of `--name=value` or `--name value` in a command line."""
    for place, word in enumerate(words):
        if word == name:
            return words[place + 1] if place + 1 < len(words) else None
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None
