"""New ids over time: ML-1M trained on the past, tested on a future that has users nobody saw.

    python -m benchmarks.cold_ids [--quick] [--json] [--threads N]

Hashed tables, multiplexed and per feature, against a dictionary for each feature whose unseen
values share one row, all in the same bytes: the dictionaries' rows are 30, 15 and 3 wide, the
hashed ones 15, two for each value. Three seeds. The split by time is the set's own; ratings of 3
are left out, and rows are never chosen by their timestamps, which most liked ones lack.

auc             on all test rows
auc_known_users, auc_new_users   on those of users that training has seen, and has not
gain_*_kB       multiplexed less dictionaries, on all rows and on those of new users

A dictionary's row for the unseen is never trained, as no value of training is unseen; a hashed
value nobody saw reads rows that others have trained.
"""

import statistics
from typing import Any

from benchmarks import grid, harness, parts
from benchmarks.grid import Outcome, Point, Value

NAME = "cold_ids"
JOB = "examples/ml1m/multiplexed.toml"
ALSO = ("known_users", "new_users")
SEEDS = 3
# Rows of all values seen in training before the split, of the unseen and of nulls.
_EXACT_ROWS = 12_269
WIDTHS = (30, 15, 3)
_HASHED: dict[str, Value] = {"table.width": 15, "table.lookups": 2}
WAYS = ("dictionaries", "per feature", "multiplexed")


def points_of(way: str, width: int) -> list[Point]:
    """Returns the trainings of one way in the bytes of dictionaries with rows of `width` floats."""
    folder = parts.DATA / "ml1m-time"
    relative = folder.relative_to(grid.ROOT)
    if way == "dictionaries":
        settings: dict[str, Value] = {"table.method": "exact", "table.width": width}
    else:
        settings = {**_HASHED, "table.multiplexed": way == "multiplexed"}
    settings["table.budget"] = f"{_EXACT_ROWS * width * 4} B"
    for part in ("train", "valid", "test"):
        # As the job file's own are: relative to it.
        settings[f"data.{part}"] = f"../../{relative}/{part}.parquet"
    return [
        Point(
            job=JOB,
            settings=grid.settings_of(settings),
            seed=seed,
            also=tuple((name, f"{relative}/{name}.parquet") for name in ALSO),
        )
        for seed in range(SEEDS)
    ]


def table(outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """Returns a line for each way and size that has been trained."""
    rows = []
    for width in WIDTHS:
        for way in WAYS:
            found = [outcomes[p.digest] for p in points_of(way, width) if p.digest in outcomes]
            if found:
                row = {"way": way, "bytes": _EXACT_ROWS * width * 4, **grid.summary(found)}
                for name in ALSO:
                    values = [each[f"auc_{name}"] for each in found]
                    row[f"auc_{name}"] = statistics.mean(values)
                    row[f"std_{name}"] = statistics.stdev(values) if len(values) > 1 else 0.0
                rows.append(row)
    return rows


def gains(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Returns what multiplexing has over dictionaries, by size and rows."""
    by_cell = {(row["way"], row["bytes"]): row for row in table(outcomes)}
    found = {}
    for (way, size), row in by_cell.items():
        other = by_cell.get(("dictionaries", size))
        if way == "multiplexed" and other is not None:
            for key in ("auc", "auc_new_users"):
                found[f"gain_{key}_{size // 1000}_kB"] = row[key] - other[key]
    return found


def main() -> None:
    """Trains what is not trained yet, and prints the table or its JSON."""
    options = harness.start("cold_ids", __doc__, threads=1)
    parts.prepare("ml1m-time")
    points = [point for way in WAYS for width in WIDTHS for point in points_of(way, width)]
    points.sort(key=lambda point: point.seed)
    outcomes = grid.run(NAME, points[:1] if options.quick else points, options.threads)
    harness.finish(options, gains(outcomes), table(outcomes))


if __name__ == "__main__":
    main()
