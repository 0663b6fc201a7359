"""`muxtable resize`: a run with a larger or a smaller table, made of a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Output, facts, size_text
from launch.progress import PassProgress
from launch.targets import Checkpoint, RunPath, parse_checkpoint

if TYPE_CHECKING:
    from trainer.resize import Change
    from trainer.resize_run import Resized

_MOST = 1024


def command(
    ctx: typer.Context,
    run_path: RunPath,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the new run.")],
    times: Annotated[
        int | None, typer.Option(min=2, max=_MOST, help="Grow to so many times the hashed rows.")
    ] = None,
    fold: Annotated[
        int | None, typer.Option(min=2, max=_MOST, help="Shrink to one of so many hashed rows.")
    ] = None,
    checkpoint: Checkpoint = "last",
) -> None:
    """Grow a trained table without loss, or fold it; training goes on from there."""
    output: Output = ctx.obj
    which = parse_checkpoint(checkpoint)
    change = _change(times, fold)
    from trainer.resize_run import resize_run
    from trainer.run import Run

    run = Run.open(run_path)
    with PassProgress(output, "rows") as progress:
        resized = resize_run(run, which, change, out, progress)
    document = _document(run.path, resized)
    output.result(document, lambda console: _render(console, document))


def _change(times: int | None, fold: int | None) -> Change:
    from trainer.resize import Change

    if times is not None and fold is None:
        return Change("grow", times)
    if fold is not None and times is None:
        return Change("fold", fold)
    raise ConfigError(
        "a table either grows (--times) or folds (--fold)", "give one of them, as in --times 4"
    )


def _document(old: Path, resized: Resized) -> dict[str, Any]:
    before, after = resized.old, resized.new
    return {
        "from": str(old),
        "run": str(resized.path),
        "job": str(resized.job),
        "step": resized.step,
        "rows": {"before": before.rows, "after": after.rows},
        "bytes": {
            "before": before.rows * before.width * 4,
            "after": after.rows * after.width * 4,
        },
        "regions": [
            {"name": was.name, "before": was.rows, "after": now.rows}
            for was, now in zip(before.regions, after.regions, strict=True)
        ],
    }


def _render(console: Console, document: dict[str, Any]) -> None:
    rows = [
        (region["name"], f"{region['before']:,} rows -> {region['after']:,}")
        for region in document["regions"]
    ]
    sizes = document["bytes"]
    sizes_text = f"{size_text(sizes['before'])} -> {size_text(sizes['after'])}"
    rows.append(("parameters", sizes_text))
    console.print(facts(f"the table of {document['from']} at step {document['step']:,}", rows))
    console.print(f"go on   muxtable train {document['job']}", soft_wrap=True)
