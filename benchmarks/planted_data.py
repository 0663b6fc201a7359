"""A click log whose truth is known: 26 features with Criteo's cardinalities and Zipf ids.

A value v of feature f adds w[f, v] to the logit of a click, w normal with the same deviation for
every value; ids are drawn independently with p(rank r) of the order of r^-EXPONENT. So the best
ranking there can be is by the true logit, and its AUC on the test rows is Bayes'.

Cardinalities: Criteo after pruning, Table 4 of arXiv 2305.12102, 160,605 in all.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

CRITEO = (
    *(676, 533, 17447, 19995, 180, 13, 9693, 337, 3, 14637, 4378, 17795, 3067),
    *(26, 6504, 18679, 10, 3102, 1557, 3, 18230, 10, 14, 13079, 56, 10581),
)
NAMES = tuple(f"C{number + 1}" for number in range(len(CRITEO)))
LABEL = "click"
# Enough for nearly every value of the largest vocabularies to come in two million rows.
EXPONENT = 1.05
# Of the logit over the rows; Bayes' AUC follows from it and the rate.
_DEVIATION = 1.5
_BIAS = -1.2
_ROW_GROUP = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What was planted: a function of seed and sizes."""

    seed: int
    train_rows: int
    test_rows: int
    rate: float
    """Clicks of the test rows."""
    bayes_auc: float
    """On the test rows."""


def write_planted(folder: Path, seed: int, train_rows: int, test_rows: int) -> Truth:
    """Writes train.parquet and test.parquet and returns the truth; what is there is kept."""
    record = folder / f"truth-{seed}-{train_rows}-{test_rows}.json"
    if record.exists():
        return Truth(**json.loads(record.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, _DEVIATION / np.sqrt(len(CRITEO)), count) for count in CRITEO]
    _write(folder / "train.parquet", rng, weights, train_rows)
    labels, logits = _write(folder / "test.parquet", rng, weights, test_rows)
    truth = Truth(
        seed=seed,
        train_rows=train_rows,
        test_rows=test_rows,
        rate=float(labels.mean()),
        bayes_auc=float(roc_auc_score(labels, logits)),
    )
    for old in folder.glob("truth-*.json"):
        old.unlink()
    record.write_text(json.dumps(asdict(truth)))
    return truth


def _write(
    path: Path, rng: np.random.Generator, weights: list[NDArray[np.float64]], rows: int
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Writes rows and returns their labels and true logits."""
    logits = np.full(rows, _BIAS)
    columns = {}
    for name, of_values in zip(NAMES, weights, strict=True):
        ids = _zipf(rng, len(of_values), rows)
        logits += of_values[ids]
        columns[name] = pa.array(ids)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    table = pa.table({**columns, LABEL: pa.array(labels)})
    pq.write_table(table, path, row_group_size=_ROW_GROUP)
    return labels, logits


def _zipf(rng: np.random.Generator, count: int, rows: int) -> NDArray[np.int32]:
    """Draws ids 0 .. count - 1, the most frequent first."""
    shares = np.arange(1, count + 1, dtype=np.float64) ** -EXPONENT
    bounds = np.cumsum(shares) / shares.sum()
    ids = np.searchsorted(bounds, rng.random(rows), side="right")
    return np.minimum(ids, count - 1).astype(np.int32)
