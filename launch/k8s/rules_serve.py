"""Rules for the parameter service: no call is lost when pods come, go or change their version."""

from __future__ import annotations

from collections.abc import Iterator

from launch.k8s.manifests import Manifests, Object, is_selected, name_of, option
from launch.k8s.rules import Finding, rule

_READINESS = "readiness"
_NAME, _SERVICE = "app.kubernetes.io/name", "muxtable-serve"


def _services(manifests: Manifests) -> Iterator[tuple[str, Object, Object, list[str]]]:
    """Yields the Deployments of the service: name, spec, pod spec, arguments."""
    for each in manifests.of_kind("Deployment"):
        pod = each["spec"]["template"]["spec"]
        if each["spec"]["template"]["metadata"]["labels"].get(_NAME) != _SERVICE:
            continue
        arguments = [str(word) for word in pod["containers"][0].get("args") or []]
        yield name_of(each), each["spec"], pod, arguments


@rule
def a_roll_takes_no_pod_away(manifests: Manifests) -> Iterator[Finding]:
    """The next pod is ready before one goes."""
    for name, spec, _, _ in _services(manifests):
        roll = (spec.get("strategy") or {}).get("rollingUpdate") or {}
        if roll.get("maxUnavailable") != 0 or not roll.get("maxSurge"):
            yield Finding(
                name, "takes pods away before others are ready", "set maxUnavailable 0, maxSurge 1"
            )


@rule
def probes_ask_what_they_should(manifests: Manifests) -> Iterator[Finding]:
    """Ready means that lookups are answered; alive does not: a pod that loads is not killed."""
    for name, _, pod, _ in _services(manifests):
        container = pod["containers"][0]
        asked = {
            kind: ((container.get(f"{kind}Probe") or {}).get("grpc") or {})
            for kind in ("startup", "readiness", "liveness")
        }
        for kind in ("startup", "readiness"):
            if asked[kind].get("service") != _READINESS:
                yield Finding(
                    name,
                    f"its {kind} probe does not ask whether lookups are answered",
                    "use grpc: {port: 50052, service: readiness}",
                )
        if not asked["liveness"] or asked["liveness"].get("service"):
            yield Finding(
                name,
                "its liveness probe does not ask whether the process lives, and that alone",
                "use grpc: {port: 50052}",
            )


@rule
def pods_have_time_to_drain(manifests: Manifests) -> Iterator[Finding]:
    """The kubelet waits longer than the pod takes: before SIGTERM, until calls end, and after."""
    for name, _, pod, words in _services(manifests):
        lifecycle = pod["containers"][0].get("lifecycle") or {}
        before = ((lifecycle.get("preStop") or {}).get("sleep") or {}).get("seconds", 0)
        drain = float(option(words, "--drain-s") or 0)
        grace = float(option(words, "--grace-s") or 10)
        if before + drain < 5:
            yield Finding(
                name,
                "refuses calls before everybody knows that it ends",
                "wait 5 s or more: preStop sleep, --drain-s",
            )
        if pod.get("terminationGracePeriodSeconds", 30) <= before + drain + grace:
            yield Finding(
                name,
                f"takes up to {before + drain + grace:g} s to end, and is killed before",
                "raise terminationGracePeriodSeconds",
            )


@rule
def services_are_headless(manifests: Manifests) -> Iterator[Finding]:
    """Behind one address a connection of gRPC stays with one pod for ever."""
    pods = list(manifests.pods())
    for each in manifests.of_kind("Service"):
        if each["spec"].get("clusterIP") != "None":
            yield Finding(name_of(each), "hides its pods behind one address", "set clusterIP: None")
        selector = {"matchLabels": each["spec"].get("selector") or {}}
        chosen = [pod for pod in pods if is_selected(pod.labels, selector)]
        if not selector["matchLabels"] or len(chosen) != 1:
            yield Finding(name_of(each), "selects not one kind of pod", "select it by its labels")
            continue
        offered = {
            port.get("name"): port["containerPort"]
            for port in chosen[0].containers[0].get("ports") or []
        }
        for port in each["spec"].get("ports") or []:
            if offered.get(port.get("targetPort")) != port["port"]:
                yield Finding(
                    name_of(each),
                    f"port {port['port']} leads nowhere: its pods have {offered}",
                    "name the container's port",
                )


@rule
def budgets_leave_a_pod(manifests: Manifests) -> Iterator[Finding]:
    """A drain of nodes leaves at least one pod, and can go on."""
    for each in manifests.of_kind("PodDisruptionBudget"):
        spec, where = each["spec"], name_of(each)
        chosen = [
            deployment
            for deployment in manifests.of_kind("Deployment")
            if is_selected(deployment["spec"]["template"]["metadata"]["labels"], spec["selector"])
        ]
        if len(chosen) != 1 or not spec["selector"].get("matchLabels"):
            yield Finding(where, "selects not one Deployment", "use the labels of its pods")
        elif spec.get("maxUnavailable") != 1 or chosen[0]["spec"].get("replicas", 1) < 2:
            yield Finding(
                where,
                "leaves no pod, or keeps nodes from being drained",
                "set maxUnavailable: 1, and 2 replicas or more",
            )


@rule
def several_pods_have_a_budget(manifests: Manifests) -> Iterator[Finding]:
    """Without one a drain of nodes may take all pods at once."""
    budgets = list(manifests.of_kind("PodDisruptionBudget"))
    for each in manifests.of_kind("Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        is_kept = any(is_selected(labels, budget["spec"]["selector"]) for budget in budgets)
        if each["spec"].get("replicas", 1) > 1 and not is_kept:
            yield Finding(
                name_of(each), "may lose all its pods to a drain", "add a PodDisruptionBudget"
            )


@rule
def autoscalers_have_a_target(manifests: Manifests) -> Iterator[Finding]:
    """It scales something that is there, and never below what the budget needs."""
    there = {name_of(each) for each in manifests.of_kind("Deployment")}
    for each in manifests.of_kind("HorizontalPodAutoscaler"):
        spec, where = each["spec"], name_of(each)
        target = f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
        if target not in there:
            yield Finding(where, f"scales {target}, which is not there", "name the Deployment")
        if not 2 <= spec.get("minReplicas", 1) <= spec["maxReplicas"]:
            yield Finding(
                where, "may leave one pod", "set minReplicas to 2 or more, maxReplicas above"
            )


@rule
def calls_are_encrypted(manifests: Manifests) -> Iterator[Finding]:
    """With TLS, and roles; a service that is --insecure says so, and has one pod."""
    for name, spec, pod, words in _services(manifests):
        if "--insecure" in words:
            if spec.get("replicas", 1) > 1:
                yield Finding(name, "is --insecure, and no trial", "give it TLS and roles")
            continue
        for flag in ("--tls-cert", "--tls-key", "--access"):
            path = option(words, flag)
            mounts = pod["containers"][0].get("volumeMounts") or []
            secret = next(
                (
                    volume.get("secret")
                    for mount in mounts
                    for volume in pod.get("volumes") or []
                    if volume["name"] == mount["name"]
                    and (path or "").startswith(f"{mount['mountPath']}/")
                ),
                None,
            )
            if secret is None:
                yield Finding(name, f"{flag} names no file of a Secret", "mount the Secret there")


@rule
def replicas_agree_on_a_version(manifests: Manifests) -> Iterator[Finding]:
    """Pods that promote by themselves count promotions each, and clients hold them to it."""
    for name, spec, _, words in _services(manifests):
        is_pinned = option(words, "--policy") == "pinned" and option(words, "--pin")
        if spec.get("replicas", 1) > 1 and not is_pinned:
            yield Finding(
                name,
                "has several pods that choose their versions by themselves",
                "say which version: --policy=pinned --pin=VERSION",
            )


@rule
def serving_threads_are_stated(manifests: Manifests) -> Iterator[Finding]:
    """Unsaid, it would be one for each core of the node."""
    for name, _, pod, words in _services(manifests):
        threads = option(words, "--threads")
        limit = str(pod["containers"][0]["resources"]["limits"].get("cpu", ""))
        if threads is None or (limit.isdigit() and int(threads) > int(limit)):
            yield Finding(
                name,
                f"--threads {threads} with a limit of {limit or 'no'} CPUs",
                "say as many threads as it has CPUs",
            )


@rule
def pods_are_spread(manifests: Manifests) -> Iterator[Finding]:
    """Not all on one node."""
    for name, spec, pod, _ in _services(manifests):
        if spec.get("replicas", 1) > 1 and not pod.get("topologySpreadConstraints"):
            yield Finding(name, "may have all its pods on one node", "topologySpreadConstraints")


@rule
def published_versions_are_read_only(manifests: Manifests) -> Iterator[Finding]:
    """Where versions come from, a pod writes nothing."""
    for name, _, pod, words in _services(manifests):
        source = option(words, "--follow") or ""
        for mount in pod["containers"][0].get("volumeMounts") or []:
            if mount["mountPath"] == source and mount.get("readOnly") is not True:
                yield Finding(name, f"can write into {source}", "mount it with readOnly: true")


@rule
def monitors_find_metrics(manifests: Manifests) -> Iterator[Finding]:
    """A ServiceMonitor selects a Service that has its port."""
    for each in manifests.of_kind("ServiceMonitor"):
        chosen = [
            service
            for service in manifests.of_kind("Service")
            if is_selected(service["metadata"].get("labels") or {}, each["spec"]["selector"])
        ]
        ports = {
            port.get("name") for service in chosen for port in service["spec"].get("ports") or []
        }
        for endpoint in each["spec"]["endpoints"]:
            if endpoint.get("port") not in ports:
                yield Finding(
                    name_of(each),
                    f"no Service it selects has the port {endpoint.get('port')}",
                    "use the name of a port",
                )
