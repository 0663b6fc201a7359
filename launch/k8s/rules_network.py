"""Rules for the namespace: nothing is reachable but what a policy names, and DNS is."""

from __future__ import annotations

from collections.abc import Iterator

from launch.k8s.manifests import Manifests, Object, is_selected, name_of
from launch.k8s.rules import Finding, rule

_BOTH = {"Ingress", "Egress"}
# gRPC, its health, metrics; and Ray's job server.
_SERVE_PORTS = {50051, 50052, 9090}
_JOB_SERVER = 8265
_CLAIMS = ("muxtable-data", "muxtable-runs", "muxtable-versions")
_LEVEL = "pod-security.kubernetes.io/enforce"


@rule
def namespaces_are_restricted(manifests: Manifests) -> Iterator[Finding]:
    """The API server refuses pods that ask for more, whoever makes them."""
    for each in manifests.of_kind("Namespace"):
        if (each["metadata"].get("labels") or {}).get(_LEVEL) != "restricted":
            yield Finding(name_of(each), "takes any pod", f"label it {_LEVEL}: restricted")


@rule
def one_namespace_holds_all(manifests: Manifests) -> Iterator[Finding]:
    """Policies and names work inside one namespace."""
    spaces = {each["metadata"].get("namespace") for each in manifests.namespaced()}
    named = {each["metadata"]["name"] for each in manifests.of_kind("Namespace")}
    if len(spaces) > 1 or None in spaces or (named and not spaces <= named):
        shown = ", ".join(sorted(str(space) for space in spaces | named))
        yield Finding("the objects", f"are in several namespaces: {shown}", "use one for all")


@rule
def nothing_is_open_by_default(manifests: Manifests) -> Iterator[Finding]:
    """One policy denies all, in both directions."""
    if not any(
        policy["spec"]["podSelector"] == {}
        and set(policy["spec"].get("policyTypes") or []) == _BOTH
        and not policy["spec"].get("ingress")
        and not policy["spec"].get("egress")
        for policy in manifests.of_kind("NetworkPolicy")
    ):
        yield Finding("the namespace", "no NetworkPolicy denies all", "add one that does")


@rule
def names_are_resolved(manifests: Manifests) -> Iterator[Finding]:
    """Every pod may ask DNS, by UDP and TCP."""
    wanted = {("UDP", 53), ("TCP", 53)}
    for policy in manifests.of_kind("NetworkPolicy"):
        if policy["spec"]["podSelector"] == {}:
            for each in policy["spec"].get("egress") or []:
                if wanted <= {(port["protocol"], port["port"]) for port in each.get("ports") or []}:
                    return
    yield Finding("the namespace", "its pods cannot ask DNS", "allow egress to 53, UDP and TCP")


@rule
def policies_say_from_whom(manifests: Manifests) -> Iterator[Finding]:
    """An empty list of peers means everybody, and so does a list left out."""
    for policy in manifests.of_kind("NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for each in policy["spec"].get(direction) or []:
                if not each.get(peers):
                    yield Finding(
                        name_of(policy),
                        f"an {direction} rule without {peers} is for everybody",
                        f"say {peers}",
                    )


@rule
def only_the_service_is_reached(manifests: Manifests) -> Iterator[Finding]:
    """From outside come lookups, health and metrics; to Ray only its own pods, and jobs."""
    ray = [pod.labels for pod in manifests.ray_pods()]
    for policy in manifests.of_kind("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        is_ray = any(is_selected(labels, selector) for labels in ray)
        for each in policy["spec"].get("ingress") or []:
            ports = {port.get("port") for port in each.get("ports") or []}
            if is_ray:
                inside = all(_is_of(peer, ray) for peer in each.get("from") or [])
                is_sound = inside or ports == {_JOB_SERVER}
            else:
                is_sound = bool(ports) and ports <= _SERVE_PORTS
            if not is_sound:
                shown = ", ".join(sorted(map(str, ports))) or "all ports"
                yield Finding(
                    name_of(policy), f"opens {shown} to others", "open what they need, and no more"
                )


@rule
def buckets_are_reached(manifests: Manifests) -> Iterator[Finding]:
    """A pod that has the keys of a bucket may call HTTPS."""
    for pod in manifests.pods():
        sources = [each for box in pod.containers for each in box.get("envFrom") or []]
        if not any("secretRef" in each for each in sources):
            continue
        if not any(
            is_selected(pod.labels, policy["spec"]["podSelector"])
            and {port.get("port") for port in each.get("ports") or []} == {443}
            for policy in manifests.of_kind("NetworkPolicy")
            for each in policy["spec"].get("egress") or []
        ):
            yield Finding(
                pod.owner,
                "has keys of a bucket and cannot reach one",
                'label it muxtable/bucket: "true", and add components/bucket',
            )


def _is_of(peer: Object, labels: list[dict[str, str]]) -> bool:
    """Whether a peer is some of these pods, of this namespace."""
    selector = peer.get("podSelector") or {}
    return (
        "namespaceSelector" not in peer
        and bool(selector.get("matchLabels"))
        and any(is_selected(each, selector) for each in labels)
    )


@rule
def claims_are_there(manifests: Manifests) -> Iterator[Finding]:
    """A pod whose claim nobody made waits for ever; those of other names are in the cluster."""
    there = {each["metadata"]["name"] for each in manifests.of_kind("PersistentVolumeClaim")}
    for pod in manifests.pods():
        for volume in pod.spec.get("volumes") or []:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if name in _CLAIMS and name not in there:
                yield Finding(pod.owner, f"waits for the claim {name}", "make it, or name another")
