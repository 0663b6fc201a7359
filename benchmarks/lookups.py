"""ML-1M: how many lookups, and how narrow rows, at the same bytes and the same embedding width.

    python -m benchmarks.lookups [--quick] [--json] [--threads N]

An embedding of 30 columns as c rows of width 30 / c, c in 1, 2, 3, 5, 6, 10, at four budgets, three
seeds each, multiplexed; at the two smallest budgets per feature too, and with lookups by
cardinality (users and films 3, zip codes 2, the others 1; of 15). Draws build/lookups.png.

Beside it other numbers of columns, from 32 down to 15, at the three smaller budgets, and on ML-100K
and flights at a tenth.

auc_loss_half, _tenth, _fiftieth   the best of all at half, a tenth and a fiftieth of
                                   collisionless bytes against collisionless
share_of_lookups_158kB, _32kB      of what multiplexing and lookups gain together on the hashing
                                   trick per feature, the share that lookups alone gain
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import grid, harness, ml1m, other_sets, parts
from benchmarks.grid import Outcome, Point, Value
from benchmarks.representations import JOB, NAME, collisionless
from features.settings import parse_size

BUDGETS = ("1581 kB", "791 kB", "158 kB", "32 kB")
COUNTS = (1, 2, 3, 5, 6, 10)
CANDIDATES = ((2, 16), (4, 8), (2, 8), (4, 4), (3, 5), (5, 3), (10, 2))
COLUMN_BUDGETS = {
    JOB: BUDGETS[1:],
    "benchmarks/jobs/ml100k.toml": ("73 kB",),
    "benchmarks/jobs/flights.toml": ("90 kB",),
}
COLUMNS = 30
SEEDS = 3
_LINE_BYTES = 64
_VALUES = 13_144
"""Distinct values of the hashed features in training."""
_FEATURES = 5  # gender has rows of its own in every layout
_BY_CARDINALITY: dict[str, Value] = {
    "table.width": 15,
    "table.lookups": 1,
    "feature.user_id.lookups": 3,
    "feature.movie_id.lookups": 3,
    "feature.zip.lookups": 2,
}

Cell = tuple[str, str, int]


def cells() -> dict[Cell, list[Point]]:
    """Returns the trainings by (way, budget, lookups); 0 lookups stands for by cardinality."""
    found: dict[Cell, list[Point]] = {}
    for budget in BUDGETS:
        for count in COUNTS:
            settings: dict[str, Value] = {"table.width": COLUMNS // count, "table.lookups": count}
            if count == 1:
                settings = {"table.method": "hash", "table.width": COLUMNS}
            found["multiplexed", budget, count] = _points(settings, budget, True)
            if budget in BUDGETS[2:]:
                found["per feature", budget, count] = _points(settings, budget, False)
        if budget in BUDGETS[2:]:
            found["multiplexed", budget, 0] = _points(_BY_CARDINALITY, budget, True)
            found["per feature", budget, 0] = _points(_BY_CARDINALITY, budget, False)
    return found


def candidates() -> dict[tuple[str, str, int, int], list[Point]]:
    """Returns the trainings of numbers of columns, by (job, budget, lookups, width)."""
    return {
        (job, budget, count, width): _points(
            {"table.width": width, "table.lookups": count}, budget, True, job
        )
        for job, budgets in COLUMN_BUDGETS.items()
        for budget in budgets
        for count, width in CANDIDATES
    }


def candidate_table() -> list[dict[str, Any]]:
    """Returns a line for each candidate, job and budget that has been trained."""
    rows = []
    for (job, budget, count, width), points in candidates().items():
        outcomes = grid.Store(store_of(job)).outcomes()
        found = [outcomes[point.digest] for point in points if point.digest in outcomes]
        if found:
            row = {"job": job, "budget": budget, "lookups": count, "width": width}
            rows.append(row | grid.summary(found))
    return rows


def store_of(job: str) -> str:
    """Returns the name of the results of a job."""
    return NAME if "ml1m" in job else other_sets.NAME


def table(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Returns a line for each cell that has been trained, the collisionless table last."""
    rows = []
    for cell, points in cells().items():
        found = [outcomes[point.digest] for point in points if point.digest in outcomes]
        if found:
            rows.append(_row(cell, found))
    exact = [outcomes[point.digest] for point in collisionless() if point.digest in outcomes]
    if exact:
        rows.append({"way": "exact", "budget": "", "lookups": 1, **grid.summary(exact)})
    return rows


def twins(budget: str, count: int) -> float:
    """Returns the share of values that some other value shares all its rows with, in expectation.

    With n rows and c lookups two values meet in all of them with chance n^-c. At equal bytes n
    grows as c does, so the values that share *one* of a value's rows are as many whatever c is.
    """
    rows = parse_size(budget) // (4 * (COLUMNS // count))
    return -math.expm1((_VALUES - 1) * math.log1p(-(float(rows) ** -count)))


def ratios(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Returns the figures that the docstring names; every cell has to be trained."""
    aucs = {
        (row["way"], row["budget"], row["lookups"]): float(row["auc"])
        for row in table(outcomes)
        if "auc" in row
    }

    def best(way: str, budget: str) -> float:
        return max(aucs.get((way, budget, count), 0.0) for count in COUNTS)

    def best_of_all(budget: str) -> float:
        narrow = [
            float(row["auc"])
            for row in candidate_table()
            if (row["job"], row["budget"]) == (JOB, budget)
        ]
        return max(best("multiplexed", budget), *narrow)

    found = {}
    for name, budget in (("half", "791 kB"), ("tenth", "158 kB"), ("fiftieth", "32 kB")):
        found[f"auc_loss_{name}"] = aucs["exact", "", 1] - best_of_all(budget)
    for budget in BUDGETS[2:]:
        start = aucs["per feature", budget, 1]
        alone, both = best("per feature", budget) - start, best("multiplexed", budget) - start
        found[f"share_of_lookups_{budget.replace(' ', '')}"] = alone / both
    return found


def main() -> None:
    """Trains what is not trained yet, draws the surface and prints the table or its JSON."""
    options = harness.start("lookups", __doc__, threads=1)
    ml1m.prepare()
    points = [point for cell in cells().values() for point in cell] + collisionless()
    points += [point for cell in candidates().values() for point in cell]
    points.sort(key=lambda point: point.seed)
    if options.quick:
        points = points[:1]
    else:
        for name in ("ml100k", "flights"):
            parts.prepare(name)
        elsewhere = [point for point in points if store_of(point.job) == other_sets.NAME]
        grid.run(other_sets.NAME, elsewhere, options.threads)
    here = [point for point in points if store_of(point.job) == NAME]
    outcomes = grid.run(NAME, here, options.threads)
    surface = table(outcomes)
    if not options.quick:
        draw(surface, grid.ROOT / "build" / "lookups.png")
    rows = surface + candidate_table()
    harness.finish(options, {} if options.quick else ratios(outcomes), rows)


def _points(
    settings: dict[str, Value], budget: str, multiplexed: bool, job: str = JOB
) -> list[Point]:
    every = {**settings, "table.budget": budget, "table.multiplexed": multiplexed}
    return [Point(job=job, settings=grid.settings_of(every), seed=seed) for seed in range(SEEDS)]


def _row(cell: Cell, outcomes: list[Outcome]) -> dict[str, Any]:
    way, budget, count = cell
    row = {"way": way, "budget": budget, "lookups": count, **grid.summary(outcomes)}
    if count:
        # In memory a row takes the next power of two of bytes, so a short one is in one line.
        lines = -(-4 * COLUMNS // count // _LINE_BYTES)
        row["lines_of_sample"] = _FEATURES * count * max(lines, 1)
    return row


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Draws AUC against lookups, a line for each budget."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    colors = pyplot.get_cmap("viridis")
    for place, budget in enumerate(BUDGETS):
        for way, style in (("multiplexed", "-"), ("per feature", "--")):
            found = [
                row
                for row in rows
                if (row["way"], row["budget"]) == (way, budget) and row["lookups"] and "auc" in row
            ]
            if found:
                axes.errorbar(
                    [row["lookups"] for row in found],
                    [row["auc"] for row in found],
                    [row["auc_std"] for row in found],
                    color=colors(0.85 * place / (len(BUDGETS) - 1)),
                    linestyle=style,
                    marker="o",
                    capsize=3,
                    label=f"{budget}, {way}",
                )
    exact_auc = next(row["auc"] for row in rows if row["way"] == "exact")
    axes.axhline(exact_auc, color="gray", linewidth=1, label="collisionless, 1581 kB")
    axes.set_xscale("log")
    axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
    axes.minorticks_off()
    axes.set_xlabel("lookups of a value, each 30 / lookups wide")
    axes.set_ylabel("test AUC")
    axes.set_title("ML-1M: the same bytes read as more and narrower rows")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110)
    harness.progress(f"drew {target.relative_to(grid.ROOT)}")


if __name__ == "__main__":
    main()
