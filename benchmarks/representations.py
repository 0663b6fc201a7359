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
from benchmarks.grid import Outcome, Point, Value

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
PAPER_EXACT = (0.8872, 0.8985)


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
# A row for each value in fewer bytes: what dictionaries do with a budget. They are not in it.
NARROW = {"158 kB": 3, "791 kB": 15}


def points_of(method: Method, budget: str, multiplexed: bool) -> list[Point]:
    """Returns the trainings of one cell of the table."""
    settings = {**method.settings, "table.budget": budget, "table.multiplexed": multiplexed}
    seeds = 5 if budget == "158 kB" else 3
    return [Point(job=JOB, settings=grid.settings_of(settings), seed=seed) for seed in range(seeds)]


def collisionless() -> list[Point]:
    """Returns the trainings of exact rows for every value."""
    job = "examples/ml1m/collisionless.toml"
    return [Point(job=job, settings=(), seed=seed) for seed in range(3)]


def narrow(budget: str) -> list[Point]:
    """Returns the trainings of rows for every value, as wide as the budget allows."""
    settings = (("table.width", NARROW[budget]),)
    job = "examples/ml1m/collisionless.toml"
    return [Point(job=job, settings=settings, seed=seed) for seed in range(3)]


def table(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Returns a line for each cell that has been trained, the collisionless table first."""
    best = [outcomes[point.digest] for point in collisionless() if point.digest in outcomes]
    rows: list[dict[str, Any]] = []
    if best:
        rows.append(
            {"method": "exact", "budget": "", "multiplexed": None, **grid.summary(best)}
            | {"paper": PAPER_EXACT[0], "replication": PAPER_EXACT[1]}
        )
    for budget in BUDGETS:
        points = narrow(budget) if budget in NARROW else []
        found = [outcomes[point.digest] for point in points if point.digest in outcomes]
        if found:
            name = f"exact, {NARROW[budget]} wide"
            rows.append({"method": name, "budget": budget, "multiplexed": None})
            rows[-1] |= grid.summary(found)
        for method in METHODS:
            sides: dict[bool, list[float]] = {}
            for multiplexed in (False, True):
                points = points_of(method, budget, multiplexed)
                found = [outcomes[point.digest] for point in points if point.digest in outcomes]
                if not found:
                    continue
                sides[multiplexed] = [each["auc"] for each in found if "auc" in each]
                row = {"method": method.name, "budget": budget, "multiplexed": multiplexed}
                rows.append(row | grid.summary(found))
                if method.name == "hash":
                    paper, replication = PAPER[budget, multiplexed]
                    rows[-1] |= {"paper": paper, "replication": replication}
            if sides.get(False) and sides.get(True):
                rows[-1] |= grid.difference(sides[True], sides[False])
    return rows


def main() -> None:
    """Trains what is not trained yet, and prints the table or its JSON."""
    options = harness.start("representations", __doc__, threads=1)
    ml1m.prepare()
    points = collisionless()
    for budget in BUDGETS:
        points += narrow(budget) if budget in NARROW else []
        for method in METHODS:
            for multiplexed in (True, False):
                points += points_of(method, budget, multiplexed)
    # One seed of everything first: what is wrong shows early.
    points.sort(key=lambda point: point.seed)
    outcomes = grid.run(NAME, points[:1] if options.quick else points, options.threads)
    rows = table(outcomes)
    ratios = {"collisionless": rows[0]["auc"]}
    for row in rows:
        if "gain" in row:
            word = row["method"].split(",")[0].replace(" ", "_")
            ratios[f"gain_{word}_{row['budget'].replace(' ', '')}"] = row["gain"]
    harness.finish(options, ratios, rows)


if __name__ == "__main__":
    main()
