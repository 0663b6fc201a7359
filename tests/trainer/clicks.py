"""A small click log in Parquet and the job that trains on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.job import Job


def write_clicks(folder: Path, train: int = 2000, valid: int = 600, test: int = 600) -> None:
    """Writes train, valid and test logs: ids, words, a list, numbers, labels, weights."""
    rng = np.random.default_rng(0)
    of_user, of_item = rng.normal(size=60), rng.normal(size=30)
    for part, rows in (("train", train), ("valid", valid), ("test", test)):
        user, item = rng.integers(0, 60, rows), rng.integers(0, 30, rows)
        price = rng.exponential(2, rows)
        score = of_user[user] + of_item[item] - 0.3 * price
        table = pa.table(
            {
                "user": pa.array(user),
                "item": pa.array([f"item-{i}" for i in item]),
                "tags": pa.array([[int(t) for t in rng.integers(0, 9, i % 4)] for i in item]),
                "price": pa.array(price, mask=rng.random(rows) < 0.1),
                "click": pa.array((rng.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int8)),
                "weight": pa.array(rng.random(rows).astype(np.float32)),
            }
        )
        (folder / part).mkdir(parents=True)
        half = rows // 2
        for number, piece in enumerate((table.slice(0, half), table.slice(half))):
            pq.write_table(piece, folder / part / f"{number}.parquet", row_group_size=250)


def clicks_job(**changes: dict[str, Any]) -> Job:
    """Returns the job; `changes` replace keys of its parts."""
    tree: dict[str, dict[str, Any]] = {
        "data": {
            "train": "train/*.parquet",
            "valid": "valid/*.parquet",
            "test": "test/*.parquet",
            "label": "click",
            "streams": 3,
            "block_rows": 100,
        },
        "features": {"categorical": ["user", "item"], "list": ["tags"], "dense": ["price"]},
        "table": {"rows": 300, "width": 4, "exact_below": 20},
        "tower": {"hidden": [16], "dropout": 0.1},
        "train": {
            "batch_size": 64,
            "epochs": 2,
            "learning_rate": 0.01,
            "threads": 1,
            "log_every": 5,
        },
        "run": {"checkpoint_every": 10, "tensorboard": False},
    }
    for part, keys in changes.items():
        tree[part] = {**tree.get(part, {}), **keys}
    return Job.model_validate(tree)
