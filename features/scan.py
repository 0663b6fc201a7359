"""One pass over the rows of a dataset in file order, one table read ahead, in bounded memory."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from features.parquet import Dataset, Reader

# Larger row groups are passed over in steps of this many rows.
STEP_ROWS = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Some neighbouring rows of one row group."""

    table: Any
    where: str
    """File and row group, for errors that count rows from the table's first."""
    file: int
    row_group: int
    first_row: int
    """Row of the dataset that the table begins with."""


def scan(dataset: Dataset, columns: Sequence[str]) -> Iterator[Step]:
    """Yields the columns of all rows in order; DataError naming what cannot be read."""
    with (
        dataset.open_reader(columns) as reader,
        closing(_steps(dataset, reader)) as steps,
        ThreadPoolExecutor(1, "scan") as pool,
    ):
        ahead = pool.submit(next, steps, None)
        while (step := ahead.result()) is not None:
            ahead = pool.submit(next, steps, None)
            yield step


def _steps(dataset: Dataset, reader: Reader) -> Generator[Step, None, None]:
    first_row = 0
    for file, parquet in enumerate(dataset.files):
        for group, rows in enumerate(parquet.row_groups):
            if rows == 0:
                continue
            start = first_row
            tables = (
                iter([reader.row_group(file, group)])
                if rows <= STEP_ROWS
                else reader.forward(file, group, STEP_ROWS, 0)
            )
            for table in tables:
                yield Step(
                    table=table,
                    where=dataset.place(file, group, first_row - start),
                    file=file,
                    row_group=group,
                    first_row=first_row,
                )
                first_row += table.num_rows
