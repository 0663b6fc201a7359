"""A sweep's folder: a file for every point that is finished, so that none is ever trained twice.

    points/KEY.parquet    a point, whole or not there
    unfinished/KEY/       the run of a point that is being trained, gone when the point is stored
    points.parquet        all points of the grid asked for last; pareto.png and sweep.html show them
    lock                  held while a sweep works here

KEY is the digest of everything that decides a point: the settings of its job, both seeds among
them, the files of data, the codecs and the release of muxtable.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from features.errors import ConfigError
from launch.sweep.record import Record, read_records, to_bytes
from storage.fsops import DISK, locked, replace_file, translated

if TYPE_CHECKING:
    from launch.sweep.grid import Point

_FORMAT = 1
_OURS = frozenset({"points", "unfinished", "points.parquet", "pareto.png", "sweep.html", "lock"})
# What a killed sweep left training ends within seconds of it.
_ORPHANS_S = 20.0


def point_key(point: Point, data: Mapping[str, str], codecs: Sequence[str], version: str) -> str:
    """Returns the digest of what decides a point; `data` are the digests of the files by part."""
    from trainer.run import job_digest

    facts = {
        "format": _FORMAT,
        "job": job_digest(point.job),
        "data": dict(data),
        "codecs": list(codecs),
        "version": version,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


class Store:
    """A sweep's folder, held by one process.

    Entering it raises ConfigError where the folder holds other things, SnapshotError where another
    process works there or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        _refuse_foreign(self.path)
        with translated("make the sweep's folder", self.path):
            for folder in ("points", "unfinished"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(locked(DISK, self.path / "lock", 0.0))
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("points/.*.tmp")):
            leftover.unlink(missing_ok=True)
        self._wait_for_orphans()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def finished(self, key: str) -> list[Record] | None:
        """Returns the records of a point that need not be trained; None for any other."""
        path = self._file(key)
        if not path.exists():
            return None
        records = read_records(path)
        return None if any(record.status == "lost" for record in records) else records

    def stored(self, key: str) -> list[Record]:
        """Returns the records of a point, of a lost one too; none where it was not reached."""
        path = self._file(key)
        return read_records(path) if path.exists() else []

    def add(self, key: str, records: list[Record]) -> None:
        """Stores a point and removes its run."""
        self.write(f"points/{key}.parquet", to_bytes(records))
        shutil.rmtree(self.run_folder(key), ignore_errors=True)

    def run_folder(self, key: str) -> Path:
        """Returns where a point may be trained."""
        return self.path / "unfinished" / key

    def write(self, name: str, data: bytes) -> Path:
        """Replaces a file of the folder: a reader sees the old one or the new one."""
        path = self.path / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with translated(f"write {name}", self.path):
            replace_file(DISK, path, data, temporary)
        return path

    def _file(self, key: str) -> Path:
        return self.path / "points" / f"{key}.parquet"

    def _wait_for_orphans(self) -> None:
        for folder in self.path.glob("unfinished/*"):
            if (folder / "lock").exists():
                with locked(DISK, folder / "lock", _ORPHANS_S):
                    pass
            # Killed after the point was stored and before its run was removed.
            if self._file(folder.name).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(f'--out "{path}" is a file', "name a folder")
    with translated("look into the sweep's folder", path):
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    foreign = sorted(name for name in names - _OURS if not name.endswith(".tmp"))
    if foreign and "points" not in names:
        raise ConfigError(
            f'--out "{path}" holds other things ({", ".join(foreign[:4])}) and no sweep',
            "name a new folder",
        )
