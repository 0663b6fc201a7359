"""Writes the snapshot that every later version must read: `python` this file.

Format 1 of snapshots, in a bundle of format version 1. Run it only to add a file of a new version
beside this one; the bytes below `versions/` never change. Git keeps no modes, so the files are
writable here and 0444 elsewhere.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
NAME = "v-0000000012"


def write(parent: Path) -> str:
    """Writes the snapshot into `parent`, removed first; returns its digest."""
    from storage.codecs import codec_named
    from storage.snapshot_record import Tower
    from storage.snapshot_writer import write_snapshot
    from tests.storage.snapshots import every_kind, source_of

    shutil.rmtree(parent, ignore_errors=True)
    layout = every_kind(rows=61)
    numbers = np.arange(layout.rows * layout.width, dtype=np.float32)
    table = ((numbers * 37) % 101 - 50).reshape(-1, layout.width) / 64
    source = source_of(
        table,
        layout,
        codec_named("int8")(layout.width),
        files={"tower.onnx": b"no graph, but bytes"},
        tower=Tower(file="tower.onnx", width=layout.out_width, dense=("price",)),
    )
    return write_snapshot(parent, NAME, source).digest


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2]))
    sys.stdout.write(write(HERE / "versions") + "\n")
