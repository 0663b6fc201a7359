"""What a person asks of `muxtable k8s render`, held against what the pods will find."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import ConfigError
from launch.k8s.rules_ray import MOST_LETTERS
from storage.places import place_of

if TYPE_CHECKING:
    from trainer.job import Job

# The folder of the job file in the pods; what its claims are mounted as.
FOLDER = "/job"
_PARTS = ("train", "valid", "test")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")


def check_name(name: str, option: str) -> None:
    """Raises ConfigError for a name that no object can have."""
    if not name:
        raise ConfigError(f"{option} names nothing", f"write {option} NAME")
    if not _NAME.fullmatch(name) or len(name) > 63:
        raise ConfigError(
            f'{option} "{name[:80]}" cannot be a name in Kubernetes',
            "use up to 63 of a-z, 0-9 and -, beginning with a letter",
        )


def check_job_name(name: str) -> None:
    """Raises ConfigError for a name that no RayJob can have."""
    check_name(name, "--name")
    most = MOST_LETTERS["RayJob"]
    if len(name) > most:
        raise ConfigError(
            f'--name "{name}" has {len(name)} letters; KubeRay ignores a RayJob of more than '
            f"{most}",
            "choose a shorter --name",
        )


def check_image(image: str, option: str) -> None:
    """Raises ConfigError for an image that may change."""
    if not _DIGEST.fullmatch(image):
        raise ConfigError(
            f'{option} "{image}" may be another image tomorrow',
            "name it by digest, as `docker push` prints it: REGISTRY/NAME@sha256:...",
        )


def check_secret(name: str | None, option: str, why: str) -> str:
    """Returns the name of a Secret; ConfigError where it is missing."""
    if not name:
        raise ConfigError(f"{why}, and {option} names no Secret", f"add {option} NAME")
    check_name(name, option)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a service cannot do without."""

    image: str
    version: str
    tls_secret: str
    access_secret: str


def check_service(
    image: str, version: str | None, tls_secret: str | None, access_secret: str | None
) -> Service:
    """Returns what the service needs; ConfigError where some of it is missing."""
    check_image(image, "--serve-image")
    if not version:
        raise ConfigError("--version names no version to serve", "add --version v-...")
    return Service(
        image=image,
        version=version,
        tls_secret=check_secret(tls_secret, "--tls-secret", "the service wants TLS"),
        access_secret=check_secret(
            access_secret, "--access-secret", "the service wants to know who may call"
        ),
    )


def check_layout(workers: int, ranks_per_pod: int) -> None:
    """Raises ConfigError where the ranks do not fill their pods."""
    if workers % ranks_per_pod:
        raise ConfigError(
            f"--workers {workers} do not fill pods of --ranks-per-pod {ranks_per_pod}",
            f"use a multiple of {ranks_per_pod}",
        )


def run_dir(job: Job, job_path: Path) -> str:
    """Returns the run's folder as the pods name it; ConfigError where it would not stay."""
    folder = job.run.dir or f"runs/{job_path.stem}"
    if folder.startswith(f"{FOLDER}/runs/") or _is_below(folder, "runs"):
        return folder
    raise ConfigError(
        f'run.dir is "{folder}": in the cluster only {FOLDER}/runs stays',
        "--set run.dir=runs/NAME (checkpoints may go to a bucket: run.checkpoints)",
    )


def check_data(job: Job) -> bool:
    """Returns whether the job needs a bucket; ConfigError for data that no pod would find."""
    needs_bucket = "://" in (job.run.checkpoints or "")
    for part in _PARTS:
        patterns = getattr(job.data, part) or []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if "://" in pattern:
                needs_bucket = True
            elif not (pattern.startswith(f"{FOLDER}/data/") or _is_below(pattern, "data")):
                raise ConfigError(
                    f'data.{part} is "{pattern}": in the cluster the folder of the job file has '
                    "data/ and runs/, each a claim, and nothing else",
                    f"put it below data/ (or {FOLDER}/data/), or name a URI of a bucket",
                )
    return needs_bucket


def check_versions(versions: str | None, claim: str | None) -> str | None:
    """Returns the bucket of the versions, if they lie in one; ConfigError for anything else."""
    if versions is None:
        return None
    if claim is not None:
        raise ConfigError("--versions and --versions-claim are two places", "give one of them")
    place = place_of(versions, Path())
    if isinstance(place, Path):
        raise ConfigError(
            f'--versions "{versions}" is no bucket',
            "give s3://bucket/prefix, or --versions-claim NAME",
        )
    return str(place)


def _is_below(path: str, folder: str) -> bool:
    parts = path.removeprefix("./").split("/")
    return parts[0] == folder and len(parts) > 1 and ".." not in parts
