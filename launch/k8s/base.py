"""The manifests that render starts from: the folder k8s, which kustomize builds as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import ConfigError
from launch.k8s.manifests import Object

# A wheel has a copy beside this module; in a checkout they are at its root.
_INSTALLED = Path(__file__).parent / "manifests"
_CHECKOUT = Path(__file__).parents[2] / "k8s"


def read_base(name: str) -> list[Object]:
    """Returns the objects of a file of the folder: "base/train/rayjob.yaml"."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    return parse((folder / name).read_text(encoding="utf-8"), name)


def parse(text: str, where: str) -> list[Object]:
    """Returns the objects of YAML; ConfigError where it is none, or holds something else."""
    yaml = _yaml()
    try:
        objects = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as exc:
        said = " ".join(str(exc).split())
        raise ConfigError(f"{where} is no YAML: {said}", "mend it there") from exc
    for each in objects:
        is_object = isinstance(each, dict) and isinstance(each.get("metadata"), dict)
        if not (is_object and "kind" in each and "name" in each["metadata"]):
            raise ConfigError(
                f"{where} holds something that is no object of Kubernetes",
                "each document needs kind and metadata.name",
            )
    return objects


def to_text(objects: list[Object]) -> str:
    """Returns objects as YAML; texts of several lines stay readable."""
    yaml = _yaml()

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  repeated, it reads better
            return True

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(
        yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, width=110, explicit_start=True)
    )


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as exc:
        raise ConfigError(
            "manifests need PyYAML, which is not installed", "pip install 'muxtable[k8s]'"
        ) from exc
    return yaml
