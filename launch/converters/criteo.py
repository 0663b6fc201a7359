"""Criteo (Kaggle 2014): a label, 13 counts and 26 hashed categories, tab separated, no header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from launch.converters.sources import Format, find_file, read_batches

DENSE = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))

FORMAT = Format(
    delimiter="\t",
    column_names=("label", *DENSE, *CATEGORICAL),
    types={
        "label": pa.int8(),
        **dict.fromkeys(DENSE, pa.int64()),
        **dict.fromkeys(CATEGORICAL, pa.string()),
    },
    quoted=False,
)


def find_criteo(source: Path) -> Path:
    """Returns the labelled file of a folder."""
    return find_file(source, ["train.txt", "train.tsv"], "labelled rows")


def read_criteo(path: Path) -> Iterator[pa.Table]:
    """Yields the labelled rows; a missing field is null."""
    yield from read_batches(path, FORMAT)
