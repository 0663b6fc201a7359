"""Every method, per feature and multiplexed, on sets other than ML-1M.

    python -m benchmarks.other_sets [--quick] [--json] [--threads N]

Flights of 2013 (whole days held out) and ML-100K with all that is known of users and films, genres
and the words of titles as lists: three seeds, at the bytes of a row for each value, at half and at
a tenth. Ten thousand rows of Criteo and of Avazu, one seed: whether everything trains on their
columns. Their test sets of 1,000 rows say nothing of accuracy.

gain_SET_METHOD   multiplexed less per feature, test AUC at a tenth
"""

from dataclasses import dataclass
from typing import Any

from benchmarks import grid, harness, parts
from benchmarks.grid import Outcome, Point, Value
from benchmarks.representations import COLLISIONLESS, METHODS, Method

NAME = "other_sets"
_COLUMNS = 30  # of a feature's vector in METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """One set of data."""

    name: str
    columns: int
    """Of a feature's vector, in every method."""
    budgets: tuple[str, ...]
    exact: str
    """Enough for a row for each value."""
    seeds: int

    @property
    def job(self) -> str:
        """Its job file."""
        return f"benchmarks/jobs/{self.name}.toml"


SETS = (
    Set(name="ml100k", columns=30, budgets=("73 kB", "364 kB", "728 kB"), exact="750 kB", seeds=3),
    Set(name="flights", columns=24, budgets=("90 kB", "451 kB", "902 kB"), exact="920 kB", seeds=3),
    Set(name="criteo", columns=30, budgets=("400 kB",), exact="6 MB", seeds=1),
    Set(name="avazu", columns=30, budgets=("400 kB",), exact="6 MB", seeds=1),
)


def points_of(one: Set, method: Method, budget: str, multiplexed: bool) -> list[Point]:
    """Returns the trainings of one cell of a set's table."""
    settings: dict[str, Value] = {
        **method.settings,
        "table.width": int(method.settings["table.width"]) * one.columns // _COLUMNS,
        "table.budget": budget,
        "table.multiplexed": multiplexed,
    }
    return [
        Point(job=one.job, settings=grid.settings_of(settings), seed=seed)
        for seed in range(one.seeds)
    ]


def collisionless(one: Set) -> list[Point]:
    """Returns the trainings with a row for each value."""
    return points_of(one, COLLISIONLESS, one.exact, True)


def every_point(one: Set) -> list[Point]:
    """Returns the trainings of a set's table: one seed of everything first."""
    points = collisionless(one)
    for budget in one.budgets:
        for method in METHODS:
            for multiplexed in (True, False):
                points += points_of(one, method, budget, multiplexed)
    return sorted(points, key=lambda point: point.seed)


def table(one: Set, outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """Returns a line for each cell of a set's table that has been trained."""
    exact = [outcomes[p.digest] for p in collisionless(one) if p.digest in outcomes]
    rows: list[dict[str, Any]] = []
    if exact:
        summary = grid.summary(exact)
        rows.append({"set": one.name, "method": "exact", "budget": "", "multiplexed": None})
        rows[0] |= summary
    for budget in one.budgets:
        for method in METHODS:
            sides: dict[bool, list[float]] = {}
            for multiplexed in (False, True):
                points = points_of(one, method, budget, multiplexed)
                found = [outcomes[point.digest] for point in points if point.digest in outcomes]
                if not found:
                    continue
                row = {"set": one.name, "method": method.name, "budget": budget}
                rows.append(row | {"multiplexed": multiplexed, **grid.summary(found)})
                sides[multiplexed] = [each["auc"] for each in found if "auc" in each]
            if sides.get(False) and sides.get(True):
                rows[-1] |= grid.difference(sides[True], sides[False])
    return rows


def main() -> None:
    """Trains what is not trained yet, and prints the table or its JSON."""
    options = harness.start("other_sets", __doc__, threads=1)
    points: list[Point] = []
    for one in SETS[:1] if options.quick else SETS:
        parts.prepare(one.name)
        points += every_point(one)
    outcomes = grid.run(NAME, points[:1] if options.quick else points, options.threads)
    rows = [row for one in SETS for row in table(one, outcomes)]
    ratios = {}
    for one in SETS:
        for row in rows:
            if row["set"] == one.name and row["budget"] == one.budgets[0] and "gain" in row:
                ratios[f"gain_{one.name}_{row['method'].split(',')[0].replace(' ', '_')}"] = row[
                    "gain"
                ]
    harness.finish(options, ratios, rows)


if __name__ == "__main__":
    main()
