"""A job sent to a cluster through Ray's job API: what is uploaded, and the log that comes back.

Uploaded are the job file and the data files that it names by relative paths, nothing else: Ray
would zip a folder with all that lies about in it, and leave out what `.gitignore` lists. The
package itself comes from the environment of the nodes.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError, UnavailableError
from features.patterns import find_files
from launch.cluster import access

if TYPE_CHECKING:
    from features.patterns import FileEntry
    from trainer.job import Job

# What Ray's job API takes in one request.
LIMIT_BYTES = 100 << 20
_SHOWN = 3
# From SIGTERM to SIGKILL of `ray job stop`: for a step and a checkpoint (Ray's default is 3).
_STOP_WAIT_S = "60"
_PARTS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job on the cluster ended."""

    status: str
    exit_code: int
    message: str


def check_paths(job: Job) -> None:
    """Raises ConfigError where the run would be lost with the job's copy on the cluster."""
    folder = job.run.dir
    if folder is None or not (folder.startswith("/") or "://" in folder):
        said = "is not set" if folder is None else f'is "{folder}"'
        raise ConfigError(
            f"run.dir {said}: on the cluster it would lie in a copy of the job's folder, and be "
            "lost with it",
            "add --set run.dir=/FOLDER with a folder that all nodes of the cluster share",
        )


def files_of(job: Job, base: Path) -> list[FileEntry]:
    """Returns the data files to upload: those that the job names by relative paths.

    Raises ConfigError for a path that leaves the job's folder, and for more than LIMIT_BYTES.
    """
    found: dict[str, FileEntry] = {}
    for part in _PARTS:
        patterns = getattr(job.data, part) or []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if pattern.startswith("/") or "://" in pattern:
                continue
            if ".." in PurePosixPath(pattern).parts:
                raise ConfigError(
                    f'data.{part}: "{pattern}" leaves the folder of the job file, which alone is '
                    "uploaded",
                    "give an absolute path or a URI that the nodes can read",
                )
            for entry in find_files(pattern, base):
                found[entry.path] = entry
    files = sorted(found.values(), key=lambda entry: -entry.size)
    size = sum(entry.size for entry in files)
    if size > LIMIT_BYTES:
        largest = ", ".join(f"{each.path} ({each.size >> 20} MiB)" for each in files[:_SHOWN])
        raise ConfigError(
            f"the job names {size >> 20} MiB of data in its folder; {LIMIT_BYTES >> 20} MiB can "
            f"be uploaded; the largest: {largest}",
            "put the data where the nodes can read it, and name it by an absolute path or a URI",
        )
    return files


def stage(job_path: Path, files: Sequence[FileEntry], folder: Path) -> None:
    """Puts the job file and its data into an empty folder."""
    shutil.copyfile(job_path, folder / job_path.name)
    for entry in files:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(entry.location, target)
        except OSError:
            shutil.copyfile(entry.location, target)


def entrypoint(name: str, workers: int, overrides: Sequence[str]) -> str:
    """Returns the command line that the cluster runs."""
    words = ["python", "-m", "muxtable", "train", name, "--workers", str(workers)]
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)


class Jobs:
    """Ray's job API at one address."""

    def __init__(self, address: str) -> None:
        """Connects; ConfigError where nothing answers there or our token is refused."""
        access.check_release()
        access.prepare(None)
        if not address.startswith(("http://", "https://")):
            raise ConfigError(
                f'--address "{address}" is not that of a job server',
                "give the dashboard of the cluster, as in http://HOST:8265",
            )
        from ray.job_submission import JobSubmissionClient

        self.address = address
        self._client = _translating(address, lambda: JobSubmissionClient(address))
        # Two of them have levels of their own.
        for name in ("", ".dashboard.modules.dashboard_sdk", ".dashboard.modules.job.sdk"):
            logging.getLogger(f"ray{name}").setLevel(logging.ERROR)

    def submit(self, folder: Path, command: str) -> str:
        """Uploads a folder and starts a command in it; returns the job's id."""
        environment = {
            **access.ENVIRONMENT,
            "RAY_JOB_STOP_WAIT_TIME_S": _STOP_WAIT_S,
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        runtime = {"working_dir": str(folder), "env_vars": environment}
        return _translating(
            self.address,
            lambda: self._client.submit_job(entrypoint=command, runtime_env=runtime),
        )

    def follow(self, job_id: str, write: Callable[[str], object]) -> None:
        """Hands the output of a job on, in pieces, until it ends."""
        import asyncio

        async def pieces() -> None:
            async for piece in self._client.tail_job_logs(job_id):
                write(piece)

        # Which also ends the connection in order at Ctrl-C.
        asyncio.run(pieces())

    def ended(self, job_id: str) -> Ended:
        """Waits for the end of a job: it is known a moment after that of its output."""
        while not self._client.get_job_status(job_id).is_terminal():
            time.sleep(0.2)
        info = self._client.get_job_info(job_id)
        status = str(info.status.value)
        code = info.driver_exit_code
        if code is None:
            code = 0 if status == "SUCCEEDED" else 1
        return Ended(status, code, info.message or "")


def _translating(address: str, call: Callable[[], Any]) -> Any:
    """Calls the job API and puts its refusals into our words."""
    import ray

    try:
        return call()
    except ray.exceptions.AuthenticationError as exc:
        raise ConfigError(
            f"the cluster at {address} refuses our token",
            "set RAY_AUTH_TOKEN_PATH to a file with the token of that cluster",
        ) from exc
    except ConnectionError as exc:
        raise ConfigError(
            f"no job server answers at {address}",
            "check the address: it is that of the dashboard, as in http://HOST:8265",
        ) from exc
    except RuntimeError as exc:
        text = " ".join(str(exc).split())[:300]
        raise UnavailableError(
            f"the job server at {address} refuses: {text}", "look at the cluster's dashboard"
        ) from exc
