"""`muxtable diff`: what became of the vectors from one version to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Column, Output, share_text, table
from launch.progress import PassProgress
from launch.targets import open_rows


def command(
    ctx: typer.Context,
    before: Annotated[Path, typer.Argument(metavar="A", help="Folder of a version.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Folder of another version.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="FILES", help="Parquet files whose ids are looked up."),
    ] = None,
    values: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Most ids of each feature.")
    ] = 10_000,
    nearest: Annotated[
        int, typer.Option(min=1, max=100, help="How many nearest others are compared.")
    ] = 10,
) -> None:
    """Look the same ids up in two versions: cosine, length, nearest others, by feature."""
    output: Output = ctx.obj
    from launch.version_diff import compare, ids_in, made_up_ids
    from storage.snapshot import open_snapshot

    dataset = None if data is None else open_rows(data)
    with open_snapshot(before) as old, open_snapshot(after) as new:
        if dataset is None:
            ids = made_up_ids(old, values)
        else:
            with PassProgress(output, "ids") as progress:
                done = 0

                def on_rows(rows: int) -> None:
                    nonlocal done
                    done += rows
                    progress(done, dataset.num_rows)

                ids = ids_in(dataset, old, values, on_rows)
        found = compare(old, new, ids, nearest)
        names = [{route.name for route in each.layout.routes} for each in (old, new)]
        document: dict[str, Any] = {
            "before": {"version": old.name, "digest": old.digest, "codec": old.codec.text},
            "after": {"version": new.name, "digest": new.digest, "codec": new.codec.text},
            "features": [each.to_json() for each in found],
            "nearest": nearest,
            "removed": sorted(names[0] - names[1]),
            "added": sorted(names[1] - names[0]),
        }
    if not found:
        raise ConfigError(
            f"{before} and {after} have no feature with vectors of one length in common",
            "compare versions of one job",
        )
    output.result(document, lambda console: _render(console, document))


def _render(console: Console, document: dict[str, Any]) -> None:
    columns = [
        Column("feature", right=False),
        Column("values"),
        Column("changed"),
        Column("cosine"),
        Column("1 % below"),
        Column("length"),
        Column(f"nearest {document['nearest']} kept"),
    ]
    rows = [
        (
            each["feature"],
            f"{each['values']:,}",
            share_text(each["changed"]),
            f"{each['cosine']:.4f}",
            f"{each['cosine_low']:.4f}",
            f"x {each['norm_ratio']:.3f}",
            "-" if each["nearest_kept"] is None else share_text(each["nearest_kept"]),
        )
        for each in document["features"]
    ]
    sides = [document[side] for side in ("before", "after")]
    title = " against ".join(f"{side['version']} ({side['codec']})" for side in sides)
    console.print(table(title, columns, rows))
    for key in ("removed", "added"):
        if document[key]:
            console.print(f"  {key}: {', '.join(document[key])}", markup=False)
