"""`muxtable hash`: the rows of raw values, for checking another program's hashing against ours."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

from features.errors import ConfigError
from launch.console import Column, Output, table

# Negative numbers look like options; typer hands unknown options through as values.
CONTEXT_SETTINGS = {"ignore_unknown_options": True}

_INTEGER = re.compile(r"[+-]?[0-9]+")


def command(
    ctx: typer.Context,
    feature: Annotated[str, typer.Argument(help="Name of the feature (or the one it shares).")],
    values: Annotated[list[str], typer.Argument(help="Raw values.", metavar="VALUE...")],
    rows: Annotated[int, typer.Option(min=1, max=2**40, help="Rows of the feature's region.")],
    kind: Annotated[
        Literal["int", "string"], typer.Option("--type", help="How a value is read.")
    ] = "int",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="table.hash_seed.")] = 0,
    lookups: Annotated[int, typer.Option(min=1, max=64, help="Rows of each value.")] = 1,
    base: Annotated[int, typer.Option(min=0, max=2**40, help="First row of the region.")] = 0,
    null: Annotated[bool, typer.Option("--null", help="Add the rows of null, last.")] = False,
) -> None:
    """Print the rows of raw values: one list of rows for each value, a row for each lookup."""
    output: Output = ctx.obj
    for value in values:
        if value.startswith("--"):
            raise ConfigError(f"there is no option {value}", "`muxtable hash --help` lists them")
    keys = [_key(value, kind) for value in values]
    found = _rows(feature, keys, null=null, seed=seed, lookups=lookups, rows=rows, base=base)
    names = [*values, "null"] if null else values
    output.result(
        {"rows": found},
        lambda console: console.print(
            table(
                f"{feature}: rows of {len(names)} values",
                [Column("value", right=False), *(Column(f"lookup {k}") for k in range(lookups))],
                ([name, *row] for name, row in zip(names, found, strict=True)),
            )
        ),
    )


def _key(value: str, kind: str) -> int:
    from native.hashing import xxh64

    if kind == "string":
        # surrogateescape gives back the very bytes of the command line.
        return xxh64(value.encode("utf-8", "surrogateescape"))
    if _INTEGER.fullmatch(value) is None:
        raise ConfigError(f'"{value}" is no integer', "write --type string for string values")
    number = int(value)
    if not -(2**63) <= number < 2**64:
        raise ConfigError(f"{value} does not fit 64 bits", "ids are 64-bit integers or strings")
    return number % 2**64


def _rows(
    feature: str, keys: list[int], *, null: bool, seed: int, lookups: int, rows: int, base: int
) -> list[list[int]]:
    import numpy as np

    from native import hashing

    if "\0" in feature or not feature:
        raise ConfigError(f"{feature!r} is no feature's name", "give a name without NUL")
    num_values = len(keys) + null
    matrix = np.array([[*keys, *([0] * null)]], dtype=np.uint64)
    nulls = np.zeros((1, num_values), dtype=np.uint8)
    nulls[0, len(keys) :] = 1
    found = np.empty((lookups, num_values), dtype=np.int64)
    repeated: Any = {"shape": lookups, "dtype": np.int64}
    hashing.hash_rows(
        matrix,
        nulls,
        np.zeros(lookups, dtype=np.int32),
        hashing.salts(feature, lookups, seed),
        hashing.salts(feature + "\0null", lookups, seed),
        np.full(fill_value=base, **repeated),
        np.full(fill_value=rows, **repeated),
        found,
    )
    return found.T.tolist()
