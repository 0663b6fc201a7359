"""What a training of nearly nothing takes: `python -m trainer.idle` trains on a few rows and prints
the peak of its memory, which is that of the interpreter, the libraries and their threads.

`trainer.forecast` runs it in a process of its own; what data and table add is computed there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROWS = 64


def train_nothing() -> int:
    """Trains on a few rows and returns the peak of this process in bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import trainer.report_data  # noqa: F401 - a training's process has it, too
    from trainer.job import Job
    from trainer.memory import peak_bytes
    from trainer.train import train

    columns = {
        "user": list(range(ROWS)),
        "word": [f"w{i % 7}" for i in range(ROWS)],
        "number": [i / ROWS for i in range(ROWS)],
        "label": [i % 2 for i in range(ROWS)],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pa.table(columns), folder / "rows.parquet")
        job = Job.model_validate(
            {
                "data": dict.fromkeys(("train", "valid", "test"), "rows.parquet")
                | {"label": "label"},
                "features": {"categorical": ["user", "word"], "dense": ["number"]},
                "table": {"rows": 512, "width": 4},
                "train": {"batch_size": 16, "epochs": 2},
            }
        )
        train(job, folder / "run", folder)
    return peak_bytes()


if __name__ == "__main__":
    sys.stdout.write(f"{train_nothing()}\n")
