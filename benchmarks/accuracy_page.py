"""Writes the tables and plots of trainings in docs out of what is kept in benchmarks/results.

    python -m benchmarks.accuracy_page

What stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced; everything else is
written by hand. Cells that were not trained yet are left empty.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    cold_ids,
    grid,
    growing,
    lookups,
    other_sets,
    popular_values,
    representations,
    table_optimizers,
)
from benchmarks.grid import Outcome, Store

PAGES = tuple(grid.ROOT / "docs" / name for name in ("accuracy.md", "methods.md", "evolving.md"))
IMAGES = grid.ROOT / "docs" / "img"
COSTS = "method_costs.json"

Row = Mapping[str, Any]


def tables(results: Path = grid.RESULTS) -> dict[str, str]:
    """Returns the Markdown of every table by its name."""
    ml1m = _outcomes(representations.NAME)
    other = _outcomes(other_sets.NAME)
    found = {
        "methods": _methods(representations.table(ml1m), representations.BUDGETS),
        "lookups": _lookups(lookups.table(ml1m)),
        "columns": _columns(lookups.candidate_table()),
        "optimizers": _optimizers(table_optimizers.table(ml1m)),
        "cold": _cold(cold_ids.table(_outcomes(cold_ids.NAME))),
        "popular": _popular(popular_values.table(ml1m)),
    }
    for one in other_sets.SETS:
        found[one.name] = _methods(other_sets.table(one, other), one.budgets)
    costs = results / COSTS
    if costs.exists():
        found["costs"] = _costs(json.loads(costs.read_text())["rows"])
    if growing.RESULT.exists():
        found["growing"] = _growing(json.loads(growing.RESULT.read_text())["rows"])
    return found


def write(page: str, found: Mapping[str, str]) -> str:
    """Returns the page with its tables replaced; KeyError where it has one that nobody makes."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- begin {name} -->\n{found[name]}<!-- end {name} -->"

    return re.sub(r"<!-- begin (\w+) -->\n.*?<!-- end \1 -->", replaced, page, flags=re.DOTALL)


def main() -> None:
    """Writes the pages and their plots."""
    for page in PAGES:
        page.write_text(write(page.read_text(), tables()))
    rows = lookups.table(_outcomes(representations.NAME))
    if any(row["way"] == "exact" for row in rows):
        lookups.draw(rows, IMAGES / "lookups.png")


def _outcomes(name: str) -> dict[str, Outcome]:
    return Store(name).outcomes()


def _methods(rows: Sequence[Row], budgets: Iterable[str]) -> str:
    """A line for each method and budget: per feature, multiplexed, and what lies between."""
    if not rows:
        return "(not trained yet)\n"
    has_paper = any("paper" in row for row in rows)
    head = ["budget", "method", "per feature", "multiplexed", "gain", "p"]
    head += ["paper", "replication"] if has_paper else []
    lines = []
    cells: dict[tuple[str, str], dict[Any, Row]] = {}
    for row in rows:
        cells.setdefault((row["budget"], row["method"]), {})[row["multiplexed"]] = row
    for budget in ("", *budgets):
        for (found, method), sides in cells.items():
            if found != budget:
                continue
            whole, pf, mx = (sides.get(key) for key in (None, False, True))
            line = [budget or "a row for each value", method]
            line += ["", _auc(whole)] if whole else [_auc(pf), _auc(mx)]
            line += [_signed((mx or {}).get("gain")), _p((mx or {}).get("p"))]
            if has_paper:
                line += [_pair(sides, "paper"), _pair(sides, "replication")]
            lines.append(line)
    return _markdown(head, lines)


def _lookups(rows: Sequence[Row]) -> str:
    by_cell = {(row["way"], row["budget"], row["lookups"]): row for row in rows}
    heads = [f"{count} of {lookups.COLUMNS // count}" for count in lookups.COUNTS]
    lines = []
    for way in ("multiplexed", "per feature"):
        for budget in lookups.BUDGETS:
            counts = (*lookups.COUNTS, 0)
            cells = [by_cell.get((way, budget, count)) for count in counts]
            if any(cells):
                lines.append([budget, way, *map(_auc, cells)])
    touched = [by_cell.get(("multiplexed", lookups.BUDGETS[0], n)) for n in lookups.COUNTS]
    counts_of_lines = [str(row["lines_of_sample"]) if row else "" for row in touched]
    lines.append(["", "cache lines of a sample", *counts_of_lines, ""])
    for budget in lookups.BUDGETS[2:]:
        shares = [f"{lookups.twins(budget, count):.2g}" for count in lookups.COUNTS]
        lines.append([budget, "share of values with a twin", *shares, ""])
    return _markdown(["budget", "", *heads, "by cardinality"], lines)


def _columns(rows: Sequence[Row]) -> str:
    by_cell = {(row["job"], row["budget"], row["lookups"], row["width"]): row for row in rows}
    lines = []
    for job, budgets in lookups.COLUMN_BUDGETS.items():
        name = "ml1m" if job == lookups.JOB else Path(job).stem
        for budget in budgets:
            cells = [by_cell.get((job, budget, *each)) for each in lookups.CANDIDATES]
            lines.append([name, budget, *map(_auc, cells)])
    heads = [f"{count} of {width}" for count, width in lookups.CANDIDATES]
    return _markdown(["data", "budget", *heads], lines)


def _optimizers(rows: Sequence[Row]) -> str:
    head = ["budget", "optimizer", "learning rate", "floats beside a row", "best step", "test AUC"]
    lines = [
        [
            row["budget"],
            row["optimizer"],
            f"{row['learning_rate']:g}",
            str(row["state_floats"]),
            f"{row['best_step']:,.0f}",
            _auc(row),
        ]
        for row in rows
    ]
    return _markdown(head, lines)


def _cold(rows: Sequence[Row]) -> str:
    head = ["bytes", "way", "all test rows", "users known", "users new"]
    lines = [
        [
            f"{row['bytes'] / 1000:,.0f} kB",
            row["way"],
            _auc(row),
            *(_number(row[f"auc_{name}"], row[f"std_{name}"]) for name in cold_ids.ALSO),
        ]
        for row in rows
    ]
    return _markdown(head, lines)


def _popular(rows: Sequence[Row]) -> str:
    by_cell = {(row["way"], row["budget"]): row for row in rows}
    lines = []
    for way in popular_values.WAYS:
        cells = [by_cell.get((way, budget)) for budget in popular_values.BUDGETS]
        if any(cells):
            lines.append([way, *(_above(cell, way == popular_values.PLAIN) for cell in cells)])
    return _markdown(["", *popular_values.BUDGETS], lines)


def _above(row: Row | None, is_plain: bool) -> str:
    if row is None:
        return ""
    return _number(row["auc"], 0.0) if is_plain else _signed(row["gain"])


def _growing(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["way"],
            f"{row['bytes'] / 1000:,.0f} kB",
            "" if row["steps"] is None else f"{row['steps']:,}",
            _number(row["auc"], 0.0),
        ]
        for row in rows
    ]
    return _markdown(["grown", "ends with", "steps", "test AUC"], lines)


def _costs(rows: Sequence[Row]) -> str:
    head = [
        "method",
        "training step",
        "lookup",
        "served lookup",
        "bytes charged",
        "in a checkpoint",
    ]
    head += ["in a version"]
    lines = [
        [
            row["method"],
            *(f"{row[f'{what}_vs_unified']:.3g}" for what in ("step", "lookup", "served")),
            *(f"{row[f'bytes_{where}']:,}" for where in ("charged", "checkpoint", "version")),
        ]
        for row in rows
    ]
    return _markdown(head, lines)


def _auc(row: Row | None) -> str:
    if row is None:
        return ""
    if "auc" not in row:
        return "infeasible"
    text = _number(row["auc"], row["auc_std"])
    return text if row["seeds"] > 1 else f"{text} (1)"


def _number(mean: float, std: float) -> str:
    text = f"{mean:.4f}".removeprefix("0")
    return f"{text} ± {std:.4f}".replace("± 0.", "± .") if std else text


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}".replace("0.", ".", 1)


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _pair(sides: Mapping[Any, Row], key: str) -> str:
    values = [side[key] for side in sides.values() if key in side]
    return " / ".join(f"{value:.4f}".removeprefix("0") for value in values)


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, lines))


if __name__ == "__main__":
    main()
