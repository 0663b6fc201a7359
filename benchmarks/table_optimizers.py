"""Row-wise Adagrad, Adagrad and Adam for the rows of a multiplexed table, at equal bytes of rows.

    python -m benchmarks.table_optimizers [--quick] [--json] [--threads N]

ML-1M, two lookups of 15, at half and at a tenth of collisionless bytes, three seeds; the tower is
trained by Adam throughout. Every optimizer gets two learning rates, and the one that is better in
validation counts.

state_floats    what an optimizer keeps beside a row of 15: nothing of it is served
auc_behind_adam_*   test AUC of Adam less that of row-wise Adagrad
"""

import statistics
from typing import Any

from benchmarks import grid, harness, ml1m
from benchmarks.grid import Outcome, Point
from benchmarks.representations import JOB, NAME

BUDGETS = ("791 kB", "158 kB")
SEEDS = 3
WIDTH = 15
RATES = {
    "rowwise_adagrad": (0.05, 0.1),
    "adagrad": (0.05, 0.1),
    "adam": (1e-3, 2e-3),
}
_STATE_FLOATS = {"rowwise_adagrad": 1, "adagrad": WIDTH, "adam": 2 * WIDTH}


def points_of(optimizer: str, rate: float, budget: str) -> list[Point]:
    """Returns the trainings of one optimizer with one learning rate."""
    settings: dict[str, grid.Value] = {
        "table.width": WIDTH,
        "table.lookups": 2,
        "table.multiplexed": True,
        "table.budget": budget,
    }
    if (optimizer, rate) != ("adam", 2e-3):  # the job file's own, which other tables need too
        settings |= {"table.optimizer": optimizer, "table.learning_rate": rate}
    return [Point(job=JOB, settings=grid.settings_of(settings), seed=seed) for seed in range(SEEDS)]


def table(outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """Returns a line for each optimizer and budget that has been trained."""
    rows = []
    for budget in BUDGETS:
        for optimizer, rates in RATES.items():
            tried: list[dict[str, Any]] = []
            for rate in rates:
                points = points_of(optimizer, rate, budget)
                found = [outcomes[point.digest] for point in points if point.digest in outcomes]
                if found:
                    valid = statistics.mean(each["valid_auc"] for each in found)
                    row: dict[str, Any] = {
                        "optimizer": optimizer,
                        "budget": budget,
                        "learning_rate": rate,
                    }
                    steps = statistics.mean(each["best_step"] for each in found)
                    row |= {"state_floats": _STATE_FLOATS[optimizer], **grid.summary(found)}
                    tried.append(row | {"valid_auc": valid, "best_step": steps})
            if tried:
                rows.append(max(tried, key=lambda row: float(row["valid_auc"])))
    return rows


def main() -> None:
    """Trains what is not trained yet, and prints the table or its JSON."""
    options = harness.start("table_optimizers", __doc__, threads=1)
    ml1m.prepare()
    points = [
        point
        for optimizer, rates in RATES.items()
        for rate in rates
        for budget in BUDGETS
        for point in points_of(optimizer, rate, budget)
    ]
    points.sort(key=lambda point: point.seed)
    outcomes = grid.run(NAME, points[:1] if options.quick else points, options.threads)
    rows = table(outcomes)
    aucs = {(row["optimizer"], row["budget"]): row["auc"] for row in rows}
    ratios = {
        f"auc_behind_adam_{budget.replace(' ', '')}": aucs["adam", budget]
        - aucs["rowwise_adagrad", budget]
        for budget in BUDGETS
        if not options.quick
    }
    harness.finish(options, ratios, rows)


if __name__ == "__main__":
    main()
