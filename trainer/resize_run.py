"""A run with a larger or a smaller table, made of another one: a folder that `train` goes on from.

    OUT/job.toml         the run's job with the new budget; its paths start at OUT
    OUT/job.json ...     as `trainer.run` writes them when a run begins
    OUT/checkpoints/     one checkpoint: table, tower, both optimizers, and where training stood

One process reads the old rows by ranges and writes the new ones as they are made, so no table is
ever in memory, whatever the world size was that wrote it. All is put together beside OUT and
renamed, so OUT appears whole or not at all.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import ConfigError, DataError
from features.parquet import Dataset, open_dataset
from features.profile import Profile
from features.routing import Layout
from storage.chain import Checkpoint
from storage.depot import Tenure, depot_at
from storage.drafts import check_space
from storage.fsops import DISK, replace_file, translated
from storage.parts import Sharded
from storage.streamed import write_streamed
from storage.tensors import DTYPES
from trainer import saving
from trainer.job import Job
from trainer.latest import RECORD, CheckpointRecord
from trainer.resize import Change, ResizedRows, resized_layout
from trainer.run import PARTS, Run, RunDirectory
from trainer.state import RunState
from trainer.toml import toml_text

_JOB = "job.toml"
_TABLE = "table."
_TOWER = ("tower.", "optimizer.")
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """What was made of a run."""

    path: Path
    job: Path
    step: int
    old: Layout
    new: Layout


# on_rows(done, total)
OnRows = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a new run is made of, beside the rows."""

    job: Job
    datasets: Mapping[str, Dataset]
    profile: Profile
    state: RunState
    layout: Layout


def resize_run(
    run: Run,
    which: str | int,
    change: Change,
    out: Path,
    on_rows: OnRows = lambda _done, _total: None,
) -> Resized:
    """Writes the folder `out` of a run like `run` with its table changed.

    `on_rows` is told how many rows are written, and of how many, each tensor's. Raises ConfigError
    where `out` is there already, PlanError where the table cannot change so, DataError where the
    run's files are not as they were, SnapshotError where the checkpoint is damaged or there is no
    room; nothing is left of it then.
    """
    if out.exists():
        raise ConfigError(f'--out "{out}" exists already', "name a new folder")
    with saving.open_checkpoint(run.checkpoints, which, "lazy") as checkpoint:
        old = saving.layout_in(checkpoint)
        new = resized_layout(old, change)
        rows = ResizedRows(
            old,
            new,
            change,
            run.job.table.optimizer,
            lambda tensor, first, end: checkpoint.read_rows(_TABLE + tensor, first, end),
        )
        folder = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
        try:
            with translated("make the run's folder", out.parent):
                folder.mkdir(parents=True)
            parts = _parts_of(run, saving.state_in(checkpoint), new, folder)
            check_space(folder, _num_bytes(checkpoint, new.rows))
            _write_run(folder, parts, checkpoint, rows, on_rows)
            with translated("put the run in its place", out.parent):
                DISK.rename_new(folder, out)
                DISK.sync_directory(out.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Resized(path=out, job=out / _JOB, step=parts.state.step, old=old, new=new)


def _parts_of(run: Run, state: RunState, layout: Layout, folder: Path) -> _Parts:
    job = _job_of(run, layout, folder)
    datasets = _same_data(run, job, folder)
    return _Parts(
        job=job,
        datasets=datasets,
        profile=replace(run.profile(), data_digest=datasets["train"].digest()),
        state=_state_of(state),
        layout=layout,
    )


def _num_bytes(checkpoint: Checkpoint, rows: int) -> int:
    """Returns about what a checkpoint with so many rows takes on disk."""
    entries = [(name, checkpoint.entry(name)) for name in checkpoint.tensor_names]
    return sum(
        entry.row_bytes * (rows if name.startswith(_TABLE) else entry.num_rows)
        for name, entry in entries
    )


def _write_run(
    folder: Path,
    parts: _Parts,
    checkpoint: Checkpoint,
    rows: ResizedRows,
    on_rows: OnRows,
) -> None:
    """Writes job, data, profile and the checkpoint into a new folder."""
    with RunDirectory(folder, parts.job, folder) as directory:
        directory.begin(parts.datasets, parts.profile)
        text = toml_text(parts.job.model_dump(mode="json"))
        with translated(f"write {_JOB}", folder):
            replace_file(DISK, folder / _JOB, text.encode(), folder / f".{_JOB}.tmp")
        content = {
            "state": parts.state.to_json(),
            "layout": parts.layout.to_json(),
            "table": checkpoint.content["table"],
            "digests": {
                "job": directory.run.digest,
                "data": parts.profile.data_digest,
                "profile": parts.profile.digest(),
            },
        }
        tenure = depot_at(directory.run.checkpoints).take(None)
        try:
            _write_checkpoint(tenure, parts, checkpoint, rows, content, on_rows)
        finally:
            tenure.close()


def _write_checkpoint(
    tenure: Tenure,
    parts: _Parts,
    checkpoint: Checkpoint,
    rows: ResizedRows,
    content: Mapping[str, Any],
    on_rows: OnRows,
) -> None:
    """Writes and commits the first checkpoint of a run."""
    record = CheckpointRecord(
        name=f"step-{parts.state.step:010d}",
        step=parts.state.step,
        best=False,
        promotion=1,
        lineage=tenure.lineage,
        attempt_number=tenure.number,
    )
    draft = tenure.begin(record.name, "checkpoint", None, threads=1, copy_budget=0)
    tables = sum(name.startswith(_TABLE) for name in checkpoint.tensor_names)
    counted = _Count(tables * parts.layout.rows, on_rows)
    try:
        streamed = []
        for name in checkpoint.tensor_names:
            entry = checkpoint.entry(name)
            if name.startswith(_TABLE):
                blocks = partial(rows.blocks, name.removeprefix(_TABLE), entry.row_bytes)
                shape = (parts.layout.rows, *entry.shape[1:])
                told = partial(counted.blocks, blocks)
                streamed.append(write_streamed(draft.parts, name, shape, DTYPES[entry.dtype], told))
            elif name.startswith(_TOWER):
                draft.parts.add(name, Sharded.whole(checkpoint.tensor(name)))
        for name, keys in parts.layout.vocabularies().items():
            draft.parts.add(name, Sharded.whole(keys))
        digest = draft.seal({**content, RECORD: record.model_dump()}, streamed)
    except BaseException:
        draft.discard()
        raise
    tenure.commit(draft, digest, record.promotion)


class _Count:
    """The rows that went through, of so many."""

    def __init__(self, total: int, on_rows: OnRows) -> None:
        self._done = 0
        self._total = total
        self._on_rows = on_rows

    def blocks(
        self, blocks: Callable[[int, int], Iterator[np.ndarray]], first: int, end: int
    ) -> Iterator[np.ndarray]:
        """Yields blocks(first, end), and tells of each when it is written."""
        for block in blocks(first, end):
            yield block
            self._done += len(block)
            self._on_rows(self._done, self._total)


def _job_of(run: Run, layout: Layout, folder: Path) -> Job:
    """Returns the run's job with the size of the new table, and paths that start at `folder`."""
    tree = run.job.model_dump(mode="json")
    table = tree["table"]
    if table["rows"] is not None and layout.width == table["width"]:
        table["rows"] = layout.rows
    else:
        table["rows"] = None
        table["budget"] = f"{layout.rows * layout.width * _FLOAT_BYTES} B"
    for part in PARTS:
        patterns = tree["data"][part]
        if isinstance(patterns, str):
            tree["data"][part] = _moved(patterns, run.base, folder)
        elif patterns is not None:
            tree["data"][part] = [_moved(pattern, run.base, folder) for pattern in patterns]
    # Its checkpoints lie in its folder: those of the old run may be elsewhere, and are not its own.
    tree["run"] |= {"dir": ".", "checkpoints": None, "parent": None}
    return Job.model_validate_json(json.dumps(tree))


def _moved(pattern: str, base: Path, folder: Path) -> str:
    if "://" in pattern or Path(pattern).is_absolute():
        return pattern
    # Without links: a ".." behind one leads elsewhere.
    return os.path.relpath(base.resolve() / pattern, folder.resolve())


def _same_data(run: Run, job: Job, folder: Path) -> dict[str, Dataset]:
    """Opens the data under the new paths; DataError where it is not what the run began with."""
    datasets = {}
    for part, files in run.files().items():
        dataset = open_dataset(getattr(job.data, part), folder)
        was = [(Path(file["path"]).name, file["size"], file["rows"]) for file in files]
        now = [(Path(file.path).name, file.size, file.num_rows) for file in dataset.files]
        if was != now:
            raise DataError(
                f"the files of data.{part} are not those that the run began with",
                "put them back as they were; the position in them is part of the run",
            )
        datasets[part] = dataset
    return datasets


def _state_of(state: RunState) -> RunState:
    """Returns where the new run stands: at the same place in the data, with no model of this size
    measured yet."""
    return replace(
        state,
        validated_step=0,
        best_step=None,
        best_metrics=None,
        num_stale=0,
        is_stopped_early=False,
        journal_offset=0,
    )
