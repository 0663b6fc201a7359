"""The overlays as kustomize builds them, and manifests as strict schemas see them."""

import copy
import functools
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from launch.k8s.manifests import Manifests, PodTemplate
from tests.launch.command import ROOT

FOLDERS = {
    **{name: ROOT / "k8s" / "overlays" / name for name in ("cpu", "gpu", "dev")},
    "bucket": ROOT / "tests" / "k8s" / "bucket",
}
OVERLAYS = tuple(FOLDERS)
CRDS = ROOT.parent / "shared" / "crds"
KUBERNETES = "1.37"

needs_kustomize = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason="needs ../shared/crds")


@functools.cache
def _built(overlay: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDERS[overlay])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.load_all(done.stdout, Loader=_Loader))


def built(overlay: str) -> list[dict[str, Any]]:
    """Returns the objects of an overlay."""
    return copy.deepcopy(_built(overlay))


def everything() -> list[dict[str, Any]]:
    """Returns objects of every kind that the overlays have."""
    cluster = [each for each in built("dev") if each["kind"] == "RayCluster"]
    return [*built("gpu"), *cluster]


class _Loader(yaml.SafeLoader):
    """A key twice in one mapping would hide the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
        return super().construct_mapping(node, deep)


def complaints(objects: list[dict[str, Any]]) -> Iterator[str]:
    """Yields what schemas made strict find wrong: those of Kubernetes, and of KubeRay."""
    import kubernetes_validate

    for each in [*objects, *pods_of(objects)]:
        where = f"{each['kind']}/{each['metadata']['name']}"
        if each["apiVersion"] == "ray.io/v1":
            for error in _ray_schema(each["kind"]).iter_errors(each):
                yield f"{where}: {error.json_path}: {error.message}"
        elif each["apiVersion"] != "monitoring.coreos.com/v1":  # no schema of it is to be had here
            try:
                kubernetes_validate.validate(each, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{where}: {error.message}"


def pods_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns every pod as an object of its own: schemas of CRDs do not say what a pod is."""
    return [_pod(f"pod-{i}", pod) for i, pod in enumerate(Manifests(objects).pods())]


def _pod(name: str, pod: PodTemplate) -> dict[str, Any]:
    """A Pod, or a Job where it ends by itself."""
    metadata: dict[str, Any] = {"name": name, "namespace": "muxtable"}
    if pod.spec.get("restartPolicy") == "Never":
        template = {"metadata": {"labels": pod.labels}, "spec": pod.spec}
        spec = {"template": template}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    metadata |= {"labels": pod.labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}


@functools.cache
def _ray_schema(kind: str) -> jsonschema.Draft7Validator:
    text = (CRDS / f"ray.io_{kind.lower()}s.yaml").read_text()
    versions = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"][
        "versions"
    ]
    (version,) = (each for each in versions if each["name"] == "v1")
    return jsonschema.Draft7Validator(_strict(version["schema"]["openAPIV3Schema"]))


def _strict(schema: Any) -> Any:
    """Returns a schema that refuses unknown fields, as an API server prunes them silently."""
    schema = copy.copy(schema)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    if "properties" in schema:
        schema["properties"] = {k: _strict(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        schema["items"] = _strict(schema["items"])
    return schema
