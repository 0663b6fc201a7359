"""`muxtable init`: reads Parquet files once and drafts a job file for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from features.errors import ConfigError
from launch.console import Column, Output, table
from launch.progress import PassProgress
from launch.targets import open_rows

if TYPE_CHECKING:
    from launch.drafting import Guess


def command(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Parquet file, folder or glob of training rows.")
    ],
    label: Annotated[str, typer.Option(help="Column of the label, 0 or 1.")],
    out: Annotated[Path, typer.Option(help="Job file to write.")] = Path("job.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Draft a commented job file from the data; warns of columns that give the label away."""
    output: Output = ctx.obj
    if out.exists() and not force:
        raise ConfigError(f"{out} exists", "give another --out, or --force to replace it")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent} is no folder", "make it, or give another --out")
    from features.summary import profile_columns
    from launch.drafting import draft, guess

    dataset = open_rows(data)
    with PassProgress(output, "read") as progress:
        columns = profile_columns(dataset, label, progress)
    guesses = [guess(column) for column in columns]
    if not any(each.kind for each in guesses):
        raise ConfigError(
            f"{data}: no column can be a feature",
            "; ".join(f"{each.column.name}: {each.reason}" for each in guesses)
            or "the label is the only column",
        )
    text = draft(guesses, label, _relative(data, out), dataset.num_rows)
    _replace(out, text)
    for each in guesses:
        if each.is_warning:
            output.warn(f"column {each.column.name} is left out: {each.reason}")
    document = {
        "job": str(out),
        "rows": dataset.num_rows,
        "columns": [_json(each) for each in guesses],
    }
    title = f"{out}: {dataset.num_rows:,} rows, {len(guesses)} columns beside {label}"
    heads = [
        Column("column", right=False),
        Column("holds", right=False),
        Column("values"),
        Column("null"),
        Column("becomes", right=False),
        Column("because", right=False),
    ]
    output.result(document, lambda console: console.print(table(title, heads, map(_row, guesses))))


def _relative(data: str, out: Path) -> str:
    """The pattern as the job file, which may lie elsewhere, has to write it."""
    if "://" in data or Path(data).is_absolute():
        return data
    return os.path.relpath(data, out.parent)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _row(each: Guess) -> tuple[str, ...]:
    column = each.column
    nulls = f"{100 * column.null_share:.2g} %" if column.null_count else ""
    becomes = each.kind or "left out"
    if each.derive:
        becomes += f" ({each.derive})"
    holds = "-" if column.values is None else column.values
    values = f"{column.cardinality:,}" if column.values else ""
    return (
        column.name,
        f"lists of {holds}" if column.is_list else holds,
        values,
        nulls,
        becomes,
        each.reason,
    )


def _json(each: Guess) -> dict[str, object]:
    column = each.column
    return {
        "name": column.name,
        "type": column.arrow_type,
        "cardinality": column.cardinality,
        "nulls": column.null_count,
        "kind": each.kind,
        "reason": each.reason,
        "warning": each.is_warning,
    }
