"""`muxtable apply`: the whole version out of a delta and what it stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from launch.console import Output, facts, size_text


def command(
    ctx: typer.Context,
    delta: Annotated[Path, typer.Argument(metavar="DELTA", help="A folder that ends in .delta.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of versions; else the one the delta lies in.")
    ] = None,
) -> None:
    """Write the whole version a delta leads to: the very bytes of an export in full."""
    output: Output = ctx.obj
    from storage.snapshot_apply import apply_delta

    written = apply_delta(delta, out)
    document: dict[str, Any] = {
        "version": written.name,
        "path": str(written.path),
        "digest": written.digest,
        "size_bytes": written.size_bytes,
    }
    output.result(document, lambda console: _render(console, document))


def _render(console: Console, document: dict[str, Any]) -> None:
    rows = [("manifest", document["digest"]), ("size", size_text(document["size_bytes"]))]
    console.print(facts(document["path"], rows))
