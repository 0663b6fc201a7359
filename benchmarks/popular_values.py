"""ML-1M: rows of their own for frequent values, fewer lookups for rare ones, lookups by feature.

    python -m benchmarks.popular_values [--quick] [--json] [--threads N]

`table.hot_rows`, `table.frequent_values`, and `table.lookups` "auto" and "pilot" (docs/methods.md),
each against two lookups of 15 for all features, at the same bytes. One seed, the hash functions'
too, of which others alone move the AUC by about .002.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks import grid, harness, ml1m
from benchmarks.grid import Outcome, Point, Value
from benchmarks.representations import JOB, NAME

WAYS: dict[str, dict[str, Value]] = {
    "two lookups for all": {},
    "hot_rows 0.1": {"table.hot_rows": 0.1},
    "hot_rows 0.3": {"table.hot_rows": 0.3},
    "hot_rows 0.6": {"table.hot_rows": 0.6},
    "frequent_values 3000": {"table.frequent_values": 3000},
    "frequent_values 1000": {"table.frequent_values": 1000},
    "both, 0.3 and 3000": {"table.hot_rows": 0.3, "table.frequent_values": 3000},
    'lookups "auto"': {"table.lookups": "auto"},
    'lookups "pilot"': {"table.lookups": "pilot"},
}
PLAIN = next(iter(WAYS))
BUDGETS = ("158 kB", "32 kB")


def point_of(way: str, budget: str) -> Point:
    """Returns the training of one cell of the table."""
    settings: dict[str, Value] = {
        "table.width": 15,
        "table.lookups": 2,
        "table.multiplexed": True,
        "table.budget": budget,
    }
    return Point(job=JOB, settings=grid.settings_of(settings | WAYS[way]), seed=0)


def table(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Returns a line for each cell that has been trained, with what it is above the plain table."""
    rows = []
    for budget in BUDGETS:
        plain = outcomes.get(point_of(PLAIN, budget).digest)
        for way in WAYS:
            found = outcomes.get(point_of(way, budget).digest)
            if found is None or plain is None or "auc" not in found:
                continue
            gain = found["auc"] - plain["auc"]
            rows.append({"way": way, "budget": budget, "auc": found["auc"], "gain": gain})
    return rows


def main() -> None:
    """Trains what is not trained yet, and prints the table or its JSON."""
    options = harness.start("popular_values", __doc__, threads=1)
    ml1m.prepare()
    points = [point_of(way, budget) for budget in BUDGETS for way in WAYS]
    outcomes = grid.run(NAME, points[:1] if options.quick else points, options.threads)
    rows = table(outcomes)
    best = {budget: [row["gain"] for row in rows if row["budget"] == budget] for budget in BUDGETS}
    ratios = {
        f"best_gain_{budget.replace(' ', '')}": max(gains[1:])
        for budget, gains in best.items()
        if len(gains) > 1
    }
    harness.finish(options, ratios, rows)


if __name__ == "__main__":
    main()
