"""ML-1M: every method, per feature and multiplexed, at three budgets, beside the paper's figures.

    muxtable convert movielens ML-1M --out examples/ml1m/data --drop-rating 3
    python -m benchmarks.representations [--quick] [--json] [--threads N]

Three seeds each, five at the smallest budget; the hash seed follows the seed. The embedding of a
feature has 30 columns in every method. `--threads` trainings run side by side; finished ones are
kept in benchmarks/results and not run again.

Batches of 1024 instead of the paper's 128, and Adam for table and tower as there. Sources of
`paper` and `replication`: Coleman et al. 2023 (arXiv 2305.12102), Table 1, as transcribed by the
replication whose own results stand beside it; both are for the hashing trick with one lookup.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import grid, harness, ml1m
from benchmarks.grid import Point, Value

NAME = "ml1m"
JOB = "examples/ml1m/multiplexed.toml"
BUDGETS = ("158 kB", "791 kB", "1581 kB")
PAPER = {
    ("158 kB", False): (0.7707, 0.7712),
    ("791 kB", False): (0.8300, 0.8407),
    ("1581 kB", False): (0.8537, 0.8684),
    ("158 kB", True): (0.8200, 0.8263),
    ("791 kB", True): (0.8693, 0.8759),
    ("1581 kB", True): (0.8774, 0.8872),
}


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the table."""

    name: str
    settings: Mapping[str, Value]


METHODS = (
    Method("hash", {"table.method": "hash", "table.width": 30}),
    Method("unified, 2 lookups", {"table.width": 15, "table.lookups": 2}),
    Method("pq, 2 tables", {"table.method": "pq", "table.width": 15, "table.lookups": 2}),
    Method(
        "hash embedding, 2",
        {"table.method": "hash_embedding", "table.width": 30, "table.lookups": 2},
    ),
    Method("qr, 2 digits", {"table.method": "qr", "table.width": 30, "table.lookups": 2}),
    Method("hashednet", {"table.method": "hashednet", "table.width": 30, "table.lookups": 1}),
    Method("robe", {"table.method": "robe", "table.width": 30, "table.lookups": 1}),
    Method("dhe", {"table.method": "dhe", "table.width": 30, "table.learning_rate": 1e-3}),
    Method("tensor train, 2", {"table.method": "tt", "table.width": 30, "table.lookups": 2}),
)
COLLISIONLESS = Method("exact", {"table.method": "exact", "table.width": 30, "table.lookups": 1})


def points_of(method: Method, budget: str, multiplexed: bool) -> list[Point]:
    """Returns the trainings of one cell of the table."""
    settings = {**method.settings, "table.budget": budget, "table.multiplexed": multiplexed}
    seeds = 5 if budget == "158 kB" else 3
    return [Point(job=JOB, settings=grid.settings_of(settings), seed=seed) for seed in range(seeds)]


def collisionless() -> list[Point]:
    """Returns the trainings of exact rows for every value."""
    job = "examples/ml1m/collisionless.toml"
    return [Point(job=job, settings=(), seed=seed) for seed in range(3)]


def main() -> None:
    """Trains what is not trained yet, and prints the table or its JSON."""
    options = harness.start("representations", __doc__, threads=1)
    ml1m.prepare()
    budgets = BUDGETS[:1] if options.quick else BUDGETS
    cells = {
        (method.name, budget, multiplexed): points_of(method, budget, multiplexed)
        for budget in budgets
        for method in METHODS
        for multiplexed in (True, False)
    }
    points = [*collisionless(), *(point for cell in cells.values() for point in cell)]
    if options.quick:
        points = points[:1]
        cells = {}
    # One seed of everything first: what is wrong shows early.
    outcomes = grid.run(NAME, sorted(points, key=lambda point: point.seed), options.threads)
    best = grid.summary(outcomes[point.digest] for point in points if point.settings == ())
    rows: list[dict[str, Any]] = [{"method": "exact", "budget": "", "multiplexed": None, **best}]
    ratios = {"collisionless": best["auc"]}
    for method in METHODS if cells else ():
        for budget in budgets:
            aucs = {}
            for multiplexed in (False, True):
                found = [outcomes[p.digest] for p in cells[method.name, budget, multiplexed]]
                aucs[multiplexed] = [each["auc"] for each in found if "auc" in each]
                paper = PAPER[budget, multiplexed] if method.name == "hash" else (None, None)
                rows.append(
                    {
                        "method": method.name,
                        "budget": budget,
                        "multiplexed": multiplexed,
                        **grid.summary(found),
                        "paper": paper[0],
                        "replication": paper[1],
                    }
                )
            if aucs[False] and aucs[True]:
                gain = sum(aucs[True]) / len(aucs[True]) - sum(aucs[False]) / len(aucs[False])
                rows[-1] |= {"gain": gain, "p": grid.welch(aucs[True], aucs[False])}
                word = method.name.split(",")[0].replace(" ", "_")
                ratios[f"gain_{word}_{budget.replace(' ', '')}"] = gain
    harness.finish(options, ratios, rows)


if __name__ == "__main__":
    main()
