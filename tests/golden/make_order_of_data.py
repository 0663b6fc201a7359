"""Writes order_of_data.json: which rows each global batch holds, by the slow reference.

    python -m tests.golden.make_order_of_data

The file is fixed: a run that is resumed must find the rows that it has not seen.
"""

import hashlib
import json
from pathlib import Path

from tests.trainer import order_reference

PATH = Path(__file__).with_name("order_of_data.json")

CASES = [
    {
        "row_groups": [[7, 5], [], [0, 11], [4]],
        "streams": 3,
        "block_rows": 4,
        "batch_size": 5,
        "seed": 0,
        "shuffle": True,
    },
    {
        "row_groups": [[9], [2, 2, 6]],
        "streams": 5,
        "block_rows": 3,
        "batch_size": 4,
        "seed": 2**63 - 1,
        "shuffle": False,
    },
    {
        "row_groups": [[140_000, 30_000], [70_000]],
        "streams": 2,
        "block_rows": 65_536,
        "batch_size": 4096,
        "seed": 7,
        "shuffle": True,
    },
]
EPOCHS = 2
# Longer epochs are pinned by the sha256 of their rows, written as lines "file row_group row".
MOST_ROWS = 100


def rows_of(case, epoch):
    """The batches of an epoch as lists of [file, row group, row]."""
    batches = order_reference.epoch_batches(**case, epoch=epoch)
    return [[list(row) for rows in batch for row in rows] for batch in batches]


def digest(batches):
    """The sha256 of the rows, and the length of each batch on a line before them."""
    text = hashlib.sha256()
    for batch in batches:
        text.update(f"{len(batch)}\n".encode())
        text.update("".join(f"{f} {g} {r}\n" for f, g, r in batch).encode())
    return text.hexdigest()


def vector(case):
    """A case with its epochs."""
    num_rows = sum(map(sum, case["row_groups"]))
    epochs = [rows_of(case, epoch) for epoch in range(EPOCHS)]
    if num_rows > MOST_ROWS:
        return case | {"sha256": [digest(batches) for batches in epochs]}
    return case | {"epochs": epochs}


def main():
    vectors = ",\n".join(json.dumps(vector(case)) for case in CASES)
    PATH.write_text(f'{{"format": 1, "cases": [\n{vectors}\n]}}\n', encoding="ascii")


if __name__ == "__main__":
    main()
