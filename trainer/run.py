"""A run's folder: begun once, resumed by the same job on the same data, never by another.

    job.json        the resolved job, its digest, and the folder its paths start at (relative)
    data.json       path, size and rows of every file
    profile.json    what was seen of the training data; never computed again
    checkpoints/    bundles, and CURRENT; or where run.checkpoints says
    metrics.jsonl   tensorboard/   result.json   report.html
    lock            held while a process trains here

Every file is replaced in one step, job.json last when a run begins: a folder with a job.json is a
whole run, and a crash before leaves one that is begun again.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from features.errors import ConfigError, DataError, SnapshotError, TrainingError
from features.parquet import Dataset
from features.profile import Profile
from storage.fsops import DISK, replace_file, translated
from storage.places import Place, place_of
from trainer.job import Job
from trainer.lookups import with_lookups

# Keys that change how a run proceeds but not what comes out: free to differ on resume.
FREE_KEYS = frozenset(
    {
        "data.prefetch",
        "data.read_threads",
        "run.checkpoint_every",
        "run.copy_budget",
        "run.deltas",
        "run.dir",
        "run.keep",
        "run.max_failures",
        "run.tensorboard",
        "train.metrics_buffer",
        "train.threads",
    }
)
PARTS = ("train", "valid", "test")
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run's folder as anybody may read it."""

    path: Path
    job: Job
    base: Path
    """The folder that the job's relative paths start at."""
    digest: str
    """Of the job as it was written when the run began: a later release may know more settings."""
    lookups: Mapping[str, int] | None = None
    """The lookups that were chosen for features when the run began; `job` has them too."""

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Opens the run in a folder; ConfigError where there is none, SnapshotError if damaged."""
        tree = _read_json(path / "job.json")
        if tree is None:
            raise ConfigError(
                f'"{path}" is no run: it has no job.json', "give the run.dir of a `muxtable train`"
            )
        try:
            job = Job.model_validate_json(json.dumps(tree["job"]))
            base = tree["base"]
            lookups = tree.get("lookups")
            digest = digest_of(_written(tree["job"], lookups))
            is_sound = isinstance(base, str) and tree["digest"] == digest
            job = with_lookups(job, lookups or {})
        except (KeyError, TypeError, ValidationError) as exc:
            raise _damaged(path / "job.json", str(exc).splitlines()[0]) from exc
        if not is_sound:
            raise _damaged(path / "job.json", "its digest is not that of its job")
        return cls(
            path=path,
            job=job,
            base=Path(os.path.normpath(path / base)),
            digest=digest,
            lookups=lookups,
        )

    def chosen(self, digest: str, lookups: Mapping[str, int] | None) -> "Run":
        """Returns the run with the lookups that were chosen for it, and the digest with them."""
        job = with_lookups(self.job, lookups or {})
        return replace(self, job=job, digest=digest, lookups=lookups)

    @property
    def checkpoints(self) -> Place:
        """Where the checkpoints are: a folder, or a prefix of an object store."""
        elsewhere = self.job.run.checkpoints
        return self.path / "checkpoints" if elsewhere is None else place_of(elsewhere, self.base)

    @property
    def journal(self) -> Path:
        """The file of the metrics during training."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path | None:
        """The folder of TensorBoard's events, None where they are not wanted."""
        return self.path / "tensorboard" if self.job.run.tensorboard else None

    def profile(self) -> Profile:
        """Returns the profile the run began with."""
        path = self.path / "profile.json"
        text = _read(path)
        if text is None:
            raise _damaged(path, "it is missing")
        return Profile.from_bytes(text)

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """Returns path, size and rows of every file of each part."""
        tree = _read_json(self.path / "data.json")
        if tree is None:
            raise _damaged(self.path / "data.json", "it is missing")
        return tree

    def result(self) -> dict[str, Any] | None:
        """Returns what result.json holds, None before the run has ended."""
        return _read_json(self.path / "result.json")


class RunDirectory:
    """A run's folder held by the one process that trains in it; a context that lets it go."""

    def __init__(self, path: Path, job: Job, base: Path) -> None:
        self.run = Run(path=path, job=job, base=base, digest=job_digest(job))
        self._stack = ExitStack()

    @property
    def path(self) -> Path:
        """The folder."""
        return self.run.path

    @property
    def has_begun(self) -> bool:
        """Whether there is a run to resume."""
        return (self.path / "job.json").exists()

    def resume(self, datasets: Mapping[str, Dataset]) -> Profile:
        """Takes the folder and returns the profile of the run in it.

        Raises TrainingError where another process trains there, ConfigError where the run is of
        another job, DataError where its data changed.
        """
        self._lock()
        old = Run.open(self.path)
        self.run = self.run.chosen(old.digest, old.lookups)
        _refuse_other_job(self.path, old.job, self.run.job)
        _refuse_changed_data(old.files(), _facts(datasets))
        return old.profile()

    def begin(
        self,
        datasets: Mapping[str, Dataset],
        profile: Profile,
        lookups: Mapping[str, int] | None = None,
    ) -> None:
        """Makes the folder of a new run and takes it; `lookups` were chosen for its features.

        Raises ConfigError where the folder holds other things, SnapshotError where it cannot be
        written, TrainingError where another process was faster.
        """
        _refuse_foreign(self.path)
        with translated("make the run's folder", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        if self.has_begun:
            raise _in_use(self.path, "another process has just begun a run there")
        job, base = self.run.job, os.path.relpath(self.run.base, self.path)
        self.write_json("data.json", _facts(datasets))
        self._write("profile.json", profile.to_bytes())
        digest = digest_of(_written(_plain(job), lookups))
        tree = {"format": 1, "digest": digest, "base": base, "job": _plain(job)}
        self.write_json("job.json", tree if lookups is None else {**tree, "lookups": lookups})
        self.run = self.run.chosen(digest, lookups)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes result.json."""
        self.write_json("result.json", result)

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """Replaces a file of the folder: a reader sees the old one or the new one."""
        text = json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self._write(name, text.encode())

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}.{secrets.token_hex(4)}.tmp"
        with translated(f"write {name}", self.path):
            replace_file(DISK, self.path / name, data, temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _lock(self) -> None:
        path = self.path / "lock"
        with translated("take the lock", self.path):
            descriptor = DISK.open_lock(path)
            self._stack.callback(DISK.close, descriptor)
            taken = DISK.lock(descriptor)
            if not taken:
                holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
                raise _in_use(self.path, f"process {holder or 'unknown'} is training there")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        # What a killed process left of a file it was replacing.
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def job_digest(job: Job) -> str:
    """Returns the sha256 of all settings that have a part in what comes out."""
    return digest_of(_plain(job))


def digest_of(plain: Mapping[str, Any]) -> str:
    """Returns `job_digest` of a job as plain JSON values, of whatever release wrote it."""
    kept = {key: value for key, value in _flat(plain).items() if key not in FREE_KEYS}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _written(plain: Mapping[str, Any], lookups: Mapping[str, int] | None) -> Mapping[str, Any]:
    """What the digest of a run's job is made of: with the lookups that were chosen, if any."""
    return plain if lookups is None else {**plain, "lookups": lookups}


def _plain(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _facts(datasets: Mapping[str, Dataset]) -> dict[str, list[dict[str, Any]]]:
    return {
        part: [{"path": f.path, "size": f.size, "rows": f.num_rows} for f in dataset.files]
        for part, dataset in datasets.items()
    }


def _refuse_other_job(path: Path, old: Job, new: Job) -> None:
    if job_digest(old) == job_digest(new):
        return
    before, after = _flat(_plain(old)), _flat(_plain(new))
    differences = [
        f"{key} was {_shown(before, key)}, is {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if key not in FREE_KEYS and before.get(key) != after.get(key)
    ]
    raise ConfigError(
        f'"{path}" holds the run of another job: {_listed(differences)}',
        "set run.dir to a new folder to train this job, or put these keys back to go on with "
        "the old one",
    )


def _refuse_changed_data(
    old: Mapping[str, list[dict[str, Any]]], new: Mapping[str, list[dict[str, Any]]]
) -> None:
    differences = []
    for part in PARTS:
        before = {entry["path"]: entry for entry in old.get(part, [])}
        after = {entry["path"]: entry for entry in new.get(part, [])}
        for path in sorted(before.keys() | after.keys()):
            was, now = before.get(path), after.get(path)
            if was is None:
                differences.append(f"data.{part}: {path} is new")
            elif now is None:
                differences.append(f"data.{part}: {path} is gone")
            elif was != now:
                differences.append(
                    f"data.{part}: {path} had {was['size']:,} bytes and {was['rows']:,} rows, has "
                    f"{now['size']:,} and {now['rows']:,}"
                )
    if differences:
        raise DataError(
            f"the data is not what the run began with: {_listed(differences)}",
            "put the files back, or set run.dir to a new folder to train on these",
        )


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(f'run.dir "{path}" is a file', "set run.dir to a folder")
    ours = {"lock", "data.json", "profile.json"}
    with translated("look into run.dir", path):
        names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    foreign = [name for name in names if name not in ours and not name.endswith(".tmp")]
    if foreign:
        raise ConfigError(
            f'run.dir "{path}" holds other things ({_listed(foreign)}) and no run',
            "set run.dir to a new folder",
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    text = _read(path)
    if text is None:
        return None
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, str(exc)) from exc
    if not isinstance(tree, dict):
        raise _damaged(path, "it is no JSON object")
    return tree


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise SnapshotError(
            f'cannot read "{path}": {exc.strerror}', "check the path and its permissions"
        ) from exc


def _damaged(path: Path, reason: str) -> SnapshotError:
    return SnapshotError(
        f'"{path}" is damaged: {reason}', "restore it from a copy, or train in a new run.dir"
    )


def _in_use(path: Path, reason: str) -> TrainingError:
    return TrainingError(
        f'"{path}" is in use: {reason}', "wait for it, end it, or set run.dir to another folder"
    )


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "not set"


def _listed(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
