"""Every object of every overlay is what Kubernetes and KubeRay take, to the last field."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.mutations import Mutation, drop, put
from tests.k8s.overlays import (
    OVERLAYS,
    built,
    complaints,
    everything,
    needs_crds,
    needs_kustomize,
    pods_of,
)
from tests.launch.command import ROOT

pytestmark = [needs_kustomize, needs_crds]
_CHECKOV = shutil.which("checkov") or str(ROOT / "build" / "checkov" / "bin" / "checkov")
_CONTAINER = ("spec", "template", "spec", "containers", 0)
_CLUSTER = ("spec", "rayClusterSpec")
# Keys of a bucket are read from the environment, as the tools of AWS do; they come from a Secret.
_EXCUSED = {"gpu": {"CKV_K8S_35"}, "bucket": {"CKV_K8S_35"}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas_made_strict_take_every_object(overlay):
    assert list(complaints(built(overlay))) == []


def test_no_two_objects_have_one_name():
    for overlay in OVERLAYS:
        names = [
            (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
            for each in built(overlay)
        ]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "mutation",
    [
        put(*_CONTAINER, "readinesProbe", value={}, kind="Deployment"),
        put(*_CONTAINER, "ports", 0, "containerPort", value="x", kind="Deployment"),
        drop("spec", "selector", kind="Deployment"),
        put("spec", "replica", value=2, kind="StatefulSet"),
        put("spec", "schedules", value="* * * * *", kind="CronJob"),
        put("spec", "clusterIp", value="None", kind="Service"),
        put("spec", "maxUnavailible", value=1, kind="PodDisruptionBudget"),
        put("spec", "maxReplicas", value="8", kind="HorizontalPodAutoscaler"),
        put("spec", "podSelectors", value={}, kind="NetworkPolicy"),
        put("spec", "ingress", 0, "ports", 0, "port", value=[], kind="NetworkPolicy", name="serve"),
        put("spec", "accessMode", value="x", kind="PersistentVolumeClaim"),
        put("automountServiceAccountTokens", value=False, kind="ServiceAccount"),
        put("dataa", value={}, kind="ConfigMap"),
        put("spec", "shutdownAfterJobFinish", value=True, kind="RayJob"),
        put("spec", "backoffLimit", value="3", kind="RayJob"),
        put(*_CLUSTER, "authOptions", "mode", value="tokens", kind="RayJob"),
        put(*_CLUSTER, "headGroupSpec", "rayStartParam", value={}, kind="RayJob"),
        put(
            *(*_CLUSTER, "headGroupSpec", "template", "spec", "containers", 0, "imagePull"),
            value="x",
            kind="RayJob",
        ),
        put("spec", "workerGroupSpecs", 0, "replicas", value="2", kind="RayCluster"),
        drop("spec", "headGroupSpec", kind="RayCluster"),
    ],
)
def test_a_misspelt_field_or_a_wrong_type_is_found(mutation: Mutation):
    objects = everything()

    mutation(objects)

    assert list(complaints(objects))


@pytest.mark.skipif(
    not Path(_CHECKOV).exists(), reason="needs checkov: `make checkov` installs it into build"
)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_checkov_finds_nothing(overlay, tmp_path):
    objects = built(overlay)

    failed, passed = checkov([*objects, *pods_of(objects)], tmp_path)

    assert {each.split()[0] for each in failed} == _EXCUSED.get(overlay, set()), failed
    assert passed > 100


@pytest.mark.skipif(
    not Path(_CHECKOV).exists(), reason="needs checkov: `make checkov` installs it into build"
)
def test_checkov_finds_what_is_wrong(tmp_path):
    objects = everything()
    put(*_CONTAINER, "securityContext", "privileged", value=True, kind="Deployment")(objects)

    failed, _ = checkov(objects, tmp_path)

    assert any("privileged" in each for each in failed)


def checkov(objects: list[dict[str, Any]], folder: Path) -> tuple[list[str], int]:
    """Returns the checks that failed, and how many passed."""
    (folder / "all.yaml").write_text(yaml.safe_dump_all(objects))
    words = ["--framework", "kubernetes", "-o", "json", "--skip-download", "-f", "all.yaml"]
    done = subprocess.run(
        [_CHECKOV, *words],
        cwd=folder,
        env={**os.environ, "LOG_LEVEL": "CRITICAL", "CKV_IGNORE_HIDDEN_DIRECTORIES": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    failed = [
        f"{each['check_id']} {each['check_name']}: {each['resource']}"
        for each in document["results"]["failed_checks"]
    ]
    return failed, len(document["results"]["passed_checks"])
