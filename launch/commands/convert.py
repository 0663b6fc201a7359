"""`muxtable convert`: raw files of public data sets to Parquet, filtered, joined and split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from launch.console import Column, Output, share_text, table

if TYPE_CHECKING:
    import pyarrow as pa

    from launch.converters.splits import Split

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Convert the raw files of a public data set to Parquet: train, valid and test.",
)

Source = Annotated[Path, typer.Argument(help="Folder of the raw files, or one file.")]
Out = Annotated[Path, typer.Option(help="Folder the Parquet files are written into.")]
SplitText = Annotated[
    str, typer.Option(help="Percentages of train, valid and test.", metavar="A/B/C")
]
SplitBy = Annotated[
    Literal["random", "time"],
    typer.Option(help="Deal rows at random, or the oldest to train and the newest to test."),
]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of a random split.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


@app.command()
def movielens(
    ctx: typer.Context,
    source: Source,
    out: Out,
    drop_rating: Annotated[
        list[float] | None, typer.Option(help="Leave out rows with this rating (repeatable).")
    ] = None,
    positive_from: Annotated[float, typer.Option(help="Lowest rating with label 1.")] = 4,
    split: SplitText = "80/10/10",
    split_by: SplitBy = "random",
    split_seed: SplitSeed = 0,
    force: Force = False,
) -> None:
    """MovieLens (100K, 1M and larger), joined with users and films."""
    from launch.converters.movielens import read_movielens

    parsed = _split(split, split_by, split_seed)
    ratings = read_movielens(source, drop_rating or [], positive_from, by_time=split_by == "time")
    _finish(
        ctx.obj,
        "movielens",
        [ratings.table],
        parsed,
        out,
        total=ratings.table.num_rows,
        dropped=ratings.num_dropped,
        force=force,
    )


@app.command()
def criteo(
    ctx: typer.Context,
    source: Source,
    out: Out,
    split: SplitText = "80/10/10",
    split_by: SplitBy = "random",
    split_seed: SplitSeed = 0,
    force: Force = False,
) -> None:
    """Criteo's display advertising challenge (Kaggle 2014); rows are in the order of time."""
    from launch.converters.criteo import find_criteo, read_criteo

    parsed = _split(split, split_by, split_seed)
    path = find_criteo(source)
    total = _count(read_criteo(path)) if split_by == "time" else None
    _finish(ctx.obj, "criteo", read_criteo(path), parsed, out, total=total, force=force)


@app.command()
def avazu(
    ctx: typer.Context,
    source: Source,
    out: Out,
    split: SplitText = "80/10/10",
    split_by: SplitBy = "random",
    split_seed: SplitSeed = 0,
    force: Force = False,
) -> None:
    """Avazu's click-through challenge (Kaggle 2014); rows are in the order of time."""
    from launch.converters.avazu import find_avazu, read_avazu

    parsed = _split(split, split_by, split_seed)
    path = find_avazu(source)
    total = _count(read_avazu(path)) if split_by == "time" else None
    _finish(ctx.obj, "avazu", read_avazu(path), parsed, out, total=total, force=force)


def _split(text: str, by: Literal["random", "time"], seed: int) -> Split:
    from launch.converters.splits import parse_split

    return parse_split(text, by, seed)


def _count(tables: Iterable[pa.Table]) -> int:
    return sum(piece.num_rows for piece in tables)


def _finish(
    output: Output,
    name: str,
    tables: Iterable[pa.Table],
    split: Split,
    out: Path,
    *,
    force: bool,
    total: int | None = None,
    dropped: int = 0,
) -> None:
    from launch.converters.splits import Dealer
    from launch.converters.writer import write_parts

    written = write_parts(tables, Dealer(split, total), out, "label", force=force)
    rows = sum(file.rows for file in written)
    positives = sum(file.positives for file in written)
    document: dict[str, Any] = {
        "dataset": name,
        "rows": rows,
        "dropped": dropped,
        "positive_rate": round(positives / rows, 6),
        "files": [
            {
                "path": str(file.path),
                "rows": file.rows,
                "positive_rate": round(file.positives / file.rows, 6),
                "size_bytes": file.path.stat().st_size,
            }
            for file in written
        ],
    }
    title = f"{name}: {rows:,} rows, {positives / rows:.4f} positive"
    if dropped:
        title += f", {dropped:,} rows dropped ({share_text(dropped / (rows + dropped))})"
    columns = [Column("file", right=False), Column("rows"), Column("positive")]
    output.result(
        document,
        lambda console: console.print(
            table(
                title,
                columns,
                [(f.path, f"{f.rows:,}", f"{f.positives / f.rows:.4f}") for f in written],
            )
        ),
    )
