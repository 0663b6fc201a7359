"""Writes converted rows: one Parquet file for each part, all of them or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import ConfigError, DataError
from launch.converters.splits import BLOCK_ROWS, PARTS, Dealer


@dataclass(frozen=True, slots=True)
class Written:
    """One file that was written."""

    path: Path
    rows: int
    positives: int


class RowGroups:
    """A Parquet file written in full row groups of 65,536 rows, compressed with zstd."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=3, write_page_checksum=True
        )
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def write(self, table: pa.Table) -> None:
        """Takes rows; whole row groups go to the file at once."""
        self.rows += table.num_rows
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        while self._num_waiting >= BLOCK_ROWS:
            self._flush(BLOCK_ROWS)

    def _flush(self, num_rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        self._writer.write_table(table.slice(0, num_rows), row_group_size=BLOCK_ROWS)
        self._waiting = [table.slice(num_rows)]
        self._num_waiting -= num_rows

    def close(self) -> None:
        """Writes what waits and the footer."""
        if self._num_waiting:
            self._flush(self._num_waiting)
        self._writer.close()


def refuse_existing(out: Path, names: Iterable[str], *, force: bool) -> None:
    """Raises ConfigError where a file of the result exists and may not be replaced."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "give --out a folder")
    for name in names:
        if (out / name).exists() and not force:
            raise ConfigError(
                f"{out / name} exists", "give another --out, or --force to replace it"
            )


def write_parts(
    tables: Iterable[pa.Table], dealer: Dealer, out: Path, label: str, *, force: bool
) -> list[Written]:
    """Deals the rows of `tables` to train, valid and test files in `out`.

    The files appear together at the end; an error on the way leaves nothing behind.
    """
    refuse_existing(out, [f"{part}.parquet" for part in PARTS], force=force)
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".convert-", dir=out))
    try:
        written = _write(tables, dealer, scratch, label)
        for file in written:
            file.path.replace(out / file.path.name)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        if not existed and not any(out.iterdir()):
            out.rmdir()
        raise
    scratch.rmdir()
    return [Written(out / file.path.name, file.rows, file.positives) for file in written]


def _write(tables: Iterable[pa.Table], dealer: Dealer, scratch: Path, label: str) -> list[Written]:
    files: dict[str, RowGroups] = {}
    positives = dict.fromkeys(PARTS, 0)
    for block in _blocks(tables):
        for part, rows in zip(PARTS, dealer.deal(block.num_rows), strict=True):
            if not rows.size:
                continue
            mine = block.take(pa.array(rows))
            if part not in files:
                files[part] = RowGroups(scratch / f"{part}.parquet", block.schema)
            files[part].write(mine)
            positives[part] += pc.sum(mine[label]).as_py() or 0
    if not files:
        raise DataError("no row is left", "check the source and the filters")
    for file in files.values():
        file.close()
    return [Written(f.path, f.rows, positives[part]) for part, f in files.items()]


def _blocks(tables: Iterable[pa.Table]) -> Iterable[pa.Table]:
    """Cuts the tables anew into blocks of 65,536 rows, so that no reader's chunks matter."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        if num_waiting < BLOCK_ROWS:
            continue
        whole = pa.concat_tables(waiting)
        for start in range(0, num_waiting - BLOCK_ROWS + 1, BLOCK_ROWS):
            yield whole.slice(start, BLOCK_ROWS)
        waiting = [whole.slice(num_waiting - num_waiting % BLOCK_ROWS)]
        num_waiting %= BLOCK_ROWS
    if num_waiting:
        yield pa.concat_tables(waiting)
