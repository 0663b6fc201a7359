"""Writes a checkpoint and a delta on it that every later version must read: `python` this file.

Format version 1; the rules of `tests/golden/bundle_v1` hold here too. Two processes wrote each.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROWS, WIDTH, CUT = 40, 3, 25
CHANGED = np.array([0, 3, 24, 25, 31, 39])


def table() -> np.ndarray:
    """Returns the table of the base."""
    return np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)


def changed_table() -> np.ndarray:
    """Returns the table that base and delta are together."""
    whole = table()
    whole[CHANGED] = -whole[CHANGED] - 0.5
    return whole


def write(parent: Path) -> str:
    """Writes `base` and `delta` into `parent`; returns the digest of the delta's manifest."""
    from storage.parts import Sharded

    whole = table()
    digest = _write(
        parent,
        "base",
        None,
        [
            {"table.weight": Sharded(array=whole[:CUT], first_row=0, num_rows=ROWS)},
            {"table.weight": Sharded(array=whole[CUT:], first_row=CUT, num_rows=ROWS)},
        ],
        {},
    )
    whole = changed_table()
    parts = []
    for first, end in ((0, CUT), (CUT, ROWS)):
        place = int(np.searchsorted(CHANGED, first))
        local = CHANGED[(first <= CHANGED) & (end > CHANGED)] - first
        numbers = (local + first).astype(np.uint32)
        parts.append(
            {
                "delta.rows": Sharded(array=numbers, first_row=place, num_rows=len(CHANGED)),
                "table.weight": Sharded(
                    array=whole[first:end], first_row=place, num_rows=len(CHANGED), picked=local
                ),
            }
        )
    link = {"base": "base", "digest": digest, "number": 1, "tensors": ["table.weight"]}
    return _write(parent, "delta", digest, parts, {"delta": link})


def _write(parent: Path, name: str, before: str | None, parts: list, content: dict) -> str:
    from storage.bundle import BundleWriter
    from storage.parts import PartsWriter

    with BundleWriter(parent, name, "checkpoint", "golden", before) as writer:
        other = PartsWriter(writer.directory, parent, prefix="r0001-")
        for process, held in zip((writer.parts, other), parts, strict=True):
            for tensor, rows in held.items():
                process.add(tensor, rows)
        digest = writer.seal(content, [other.parts()])
        writer.publish()
    return digest


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2]))
    for made in ("base", "delta"):
        shutil.rmtree(HERE / made, ignore_errors=True)
    sys.stdout.write(write(HERE) + "\n")
