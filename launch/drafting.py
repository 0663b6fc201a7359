"""Drafts a job file from what its columns look like: which are features, of what kind, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.summary import ColumnSummary
from trainer.toml import toml_key, toml_value

_MOST_NULLS = 0.999
# Quantities that reach this far are read on a logarithmic scale.
_WIDE_RANGE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What a draft makes of a column: a kind, or None where it is left out, and the reason."""

    column: ColumnSummary
    kind: str | None
    reason: str
    is_warning: bool = False
    derive: str | None = None
    log: str | None = None


def guess(column: ColumnSummary) -> Guess:
    """Returns the kind a column seems to be of."""
    if column.problem is not None:
        return Guess(column=column, kind=None, reason=column.problem)
    if column.leak is not None:
        reason = f"it gives the label away: {column.leak}"
        return Guess(column=column, kind=None, reason=reason, is_warning=True)
    if column.is_constant:
        return Guess(column=column, kind=None, reason="every row says the same")
    if column.null_share > _MOST_NULLS:
        return Guess(column=column, kind=None, reason="nearly every row is null")
    if column.is_list:
        reason = f"lists of {column.mean_length:.1f} values on average"
        return Guess(column=column, kind="list", reason=reason)
    if column.values == "timestamps":
        reason = "the hour of it; the time itself never comes again"
        return Guess(column=column, kind="categorical", reason=reason, derive="hour")
    if column.values == "dates":
        reason = "the weekday of it; the date itself never comes again"
        return Guess(column=column, kind="categorical", reason=reason, derive="weekday")
    if column.values == "numbers":
        return Guess(column=column, kind="dense", reason=_range(column), log=_log(column))
    if column.is_unique:
        reason = f"{column.cardinality:,} values in {column.rows:,} rows: a row number"
        return Guess(column=column, kind=None, reason=reason, is_warning=True)
    return Guess(column=column, kind="categorical", reason=f"{column.cardinality:,} values")


def _range(column: ColumnSummary) -> str:
    return f"from {column.minimum:.6g} to {column.maximum:.6g}"


def _log(column: ColumnSummary) -> str | None:
    if column.minimum is None or column.maximum is None:
        return None
    if max(-column.minimum, column.maximum) < _WIDE_RANGE:
        return None
    return "log1p" if column.minimum >= 0 else "signed"


def draft(guesses: Sequence[Guess], label: str, train: str, rows: int) -> str:
    """Returns the text of a commented job file."""
    by_kind = {
        kind: [each for each in guesses if each.kind == kind]
        for kind in ("categorical", "list", "dense")
    }
    dropped = [each for each in guesses if each.kind is None]
    lines = [
        "# A job file of muxtable, drafted by `muxtable init`: read it through, then",
        "#   muxtable plan THIS_FILE     what it will cost",
        "#   muxtable train THIS_FILE",
        "# docs/settings.md lists every key.",
        "",
        "[data]",
        f"train = {toml_value(train)}",
        '# valid = "..."     rows to watch while training; without them no early stopping',
        '# test = "..."      rows for the final metrics',
        f"label = {toml_value(label)}",
        "",
        "[features]",
    ]
    if any(each.column.values == "integers" for each in by_kind["categorical"]):
        lines.append("# Integers are taken for ids and codes: move counts and amounts to dense.")
    for kind, members in by_kind.items():
        if members:
            lines += _list(kind, members)
    if dropped:
        lines += ["", "# Left out:"]
        lines += [f"#   {each.column.name}: {_one_line(each.reason)}" for each in dropped]
    crossable = [e.column.name for e in by_kind["categorical"] if e.derive is None][:2]
    if len(crossable) == 2:
        lines += [
            "",
            "# Two or more categorical columns hashed together are a feature of their own:",
            "# [features.cross]",
            f"# {toml_key('_x_'.join(crossable))} = {toml_value(crossable)}",
        ]
    for each in (*by_kind["categorical"], *by_kind["dense"]):
        for key, value in (("derive", each.derive), ("log", each.log)):
            if value is not None:
                name = toml_key(each.column.name)
                lines += ["", f"[feature.{name}]", f"{key} = {toml_value(value)}"]
    lines += [*_table_lines(guesses), *_train_lines(rows)]
    return "\n".join(lines) + "\n"


def _list(kind: str, members: Sequence[Guess]) -> list[str]:
    names = [toml_value(each.column.name) + "," for each in members]
    width = min(max(map(len, names)), 40)
    lines = [f"{kind} = ["]
    for name, each in zip(names, members, strict=True):
        nulls = f", {100 * each.column.null_share:.2g} % null" if each.column.null_count else ""
        lines.append(f"  {name:<{width}}  # {_one_line(each.reason)}{nulls}")
    return [*lines, "]"]


def _table_lines(guesses: Sequence[Guess]) -> list[str]:
    embedded = [each for each in guesses if each.kind in ("categorical", "list")]
    values = sum(each.column.cardinality for each in embedded if each.derive is None)
    width = 16
    # Half a row for each value: with two lookups hardly any value is lost to collisions.
    rows = max(values // 2, 1024)
    budget = max(-(-rows * width * 4 // 2**20), 1)
    return [
        "",
        "[table]",
        f'budget = "{budget} MiB"     # {values:,} values in all; `muxtable plan` shows collisions',
        f"width = {width}",
    ]


def _train_lines(rows: int) -> list[str]:
    batch = 1024 if rows < 2_000_000 else 4096
    return [
        "",
        "[tower]",
        'kind = "dcnv2"        # or "dlrm", "mlp"',
        "",
        "[train]",
        f"batch_size = {batch}",
        "epochs = 1",
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
