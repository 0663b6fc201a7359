"""Scored files: for every file of the input one with the same rows in the same order.

A file appears under its name when it is whole; what an error interrupts leaves nothing behind but
the files that were finished before.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import ConfigError, DataError
from features.parquet import Dataset
from launch.converters.writer import refuse_existing
from trainer.evaluate import Predictions

SCORE = "score"
# Larger row groups of the input are copied in tables of this many rows.
_MOST_ROWS = 131_072


@dataclass(frozen=True, slots=True)
class Scored:
    """One file that was written."""

    source: str
    path: Path
    rows: int
    mean_score: float | None


@dataclass(frozen=True, slots=True)
class Scoring:
    """Where the scores of a dataset go, with the columns that go beside them."""

    dataset: Dataset
    out: Path
    names: tuple[PurePath, ...]
    keep: tuple[str, ...]

    @classmethod
    def prepare(cls, dataset: Dataset, out: Path, keep: tuple[str, ...], *, force: bool) -> Scoring:
        """Checks everything that can be known before a model is loaded."""
        names = _names([file.path for file in dataset.files])
        for column in keep:
            _check_kept(column, dataset)
        refuse_existing(out, map(str, names), force=force)
        return cls(dataset, out, names, tuple(dict.fromkeys(keep)))

    def write(
        self, predictions: Iterable[Predictions], on_rows: Callable[[int], None]
    ) -> list[Scored]:
        """Writes all files; `predictions` come in the order of the dataset."""
        scores = _Scores(iter(predictions), on_rows)
        return [self._write_file(file, scores) for file in range(len(self.names))]

    def _write_file(self, number: int, scores: _Scores) -> Scored:
        path = self.out / self.names[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        source = self.dataset.files[number]
        total = 0.0
        schema = self._schema()
        try:
            with pq.ParquetWriter(
                scratch, schema, compression="zstd", write_page_checksum=True
            ) as writer:
                for rows, kept in self._tables(number):
                    values = scores.take(number, rows)
                    total += float(values.sum())
                    columns = {name: kept[name] for name in self.keep}
                    table = pa.table({**columns, SCORE: values}).cast(schema)
                    writer.write_table(table, row_group_size=_MOST_ROWS)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        mean = total / source.num_rows if source.num_rows else None
        return Scored(source.path, path, source.num_rows, mean)

    def _schema(self) -> pa.Schema:
        fields = [self.dataset.schema.field(name) for name in self.keep]
        return pa.schema([*fields, pa.field(SCORE, pa.float32())])

    def _tables(self, number: int) -> Iterator[tuple[int, Any]]:
        """Yields the rows of a file in pieces: how many, and the columns to keep."""
        with self.dataset.open_reader(self.keep) as reader:
            for group, rows in enumerate(self.dataset.files[number].row_groups):
                if not self.keep:
                    yield rows, None
                elif rows <= _MOST_ROWS:
                    yield rows, reader.row_group(number, group)
                else:
                    for table in reader.forward(number, group, _MOST_ROWS, 0):
                        yield table.num_rows, table


class _Scores:
    """Hands out predictions in the pieces the writer asks for."""

    def __init__(self, predictions: Iterator[Predictions], on_rows: Callable[[int], None]) -> None:
        self._predictions = predictions
        self._on_rows = on_rows
        self._left: NDArray[np.float32] = np.empty(0, np.float32)

    def take(self, file: int, num_rows: int) -> NDArray[np.float32]:
        """Returns the next scores, which belong to one file."""
        pieces, missing = [], num_rows
        while missing:
            if not self._left.size:
                batch = next(self._predictions)
                if batch.file != file:
                    raise AssertionError(f"scores of file {batch.file} instead of {file}")
                self._left = batch.scores.astype(np.float32)
                self._on_rows(len(self._left))
            pieces.append(self._left[:missing])
            self._left = self._left[missing:]
            missing -= len(pieces[-1])
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def _names(paths: list[str]) -> tuple[PurePath, ...]:
    """The files' names below their common folder, so that two of one name stay apart."""
    pure = [PurePath(path) for path in paths]
    bases = [path.name for path in pure]
    if len(set(bases)) == len(bases):
        return tuple(map(PurePath, bases))
    common = PurePath(os.path.commonpath([path.parent for path in pure]))
    return tuple(path.relative_to(common) for path in pure)


def _check_kept(column: str, dataset: Dataset) -> None:
    if column == SCORE:
        raise ConfigError(
            f'--keep {SCORE}: the scores are written into a column "{SCORE}"',
            "rename the column of the input",
        )
    for path, schema in dataset.schemas:
        if column not in schema.names:
            near = difflib.get_close_matches(column, schema.names, n=1)
            known = f'did you mean "{near[0]}"?' if near else f"columns: {', '.join(schema.names)}"
            raise DataError(f'{path}: there is no column "{column}" to keep', known)
