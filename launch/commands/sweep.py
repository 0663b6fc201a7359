"""`muxtable sweep`: many trainings of one job, and which table is worth its bytes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from launch.console import Column, Output, table
from launch.settings import load_tree
from launch.sweep.grid import Axes, make_points
from launch.sweep.options import (
    parse_budgets,
    parse_codecs,
    parse_counts,
    parse_grid,
    parse_hash_seeds,
    parse_methods,
)
from launch.targets import JobPath, Overrides

if TYPE_CHECKING:
    from launch.sweep.outcome import Found

_MULTIPLEXED = {"both": (True, False), "yes": (True,), "no": (False,)}
# Loss of AUC that a cheaper table may cost where nothing else is said.
_MAX_AUC_LOSS = 0.002


def command(
    ctx: typer.Context,
    job_path: JobPath,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; one that is there goes on.")],
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="Values of table.method: unified,qr,...")
    ] = None,
    multiplexed: Annotated[
        Literal["both", "yes", "no"] | None,
        typer.Option(help="Features share rows (yes), have their own (no), or both are tried."),
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(metavar="A,B", help='Values of table.budget: "158 kB,1.6 MB".')
    ] = None,
    lookups: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Values of table.lookups; the width follows."),
    ] = None,
    widths: Annotated[
        str | None, typer.Option(metavar="A,B", help="Values of table.width, whatever the lookups.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B", help="Values of another key of the job (repeatable)."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="A,B", help="Values of train.seed: a training for each.")
    ] = "0,1,2",
    hash_seeds: Annotated[
        str, typer.Option(metavar="same|A,B", help="Values of table.hash_seed; same: the seed.")
    ] = "same",
    codec: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Also store each trained table by these: int8,int4,..."),
    ] = None,
    max_auc_loss: Annotated[
        float, typer.Option(min=0, help="What the recommended table may lose to the best.")
    ] = _MAX_AUC_LOSS,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Points at a time. [default: one for each core]")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A running Ray cluster; `local` starts one. [default: RAY_ADDRESS, else local]",
        ),
    ] = None,
    overrides: Overrides = None,
) -> int | None:
    """Train a job over a grid of tables and seeds; ends with the front of AUC over bytes."""
    output: Output = ctx.obj
    axes = Axes(
        seeds=parse_counts(seeds, "--seeds", 0),
        hash_seeds=parse_hash_seeds(hash_seeds),
        methods=None if methods is None else parse_methods(methods),
        multiplexed=None if multiplexed is None else _MULTIPLEXED[multiplexed],
        budgets=None if budgets is None else parse_budgets(budgets),
        lookups=None if lookups is None else parse_counts(lookups, "--lookups"),
        widths=None if widths is None else parse_counts(widths, "--widths"),
        more=parse_grid(grid or ()),
    )
    codecs = () if codec is None else parse_codecs(codec)
    points = make_points(load_tree(job_path, overrides or ()), str(job_path), axes)
    from launch.cluster.points import Order
    from launch.sweep.outcome import present
    from launch.sweep.session import Stopped, check_points, run_sweep
    from launch.sweep.store import Store

    order = Order(address=address, workers=workers, device=points[0].job.train.device)
    base = job_path.parent
    data = check_points(points, base)
    with Store(out) as store:
        records = run_sweep(points, data, store, base, codecs, order, output)
        if isinstance(records, Stopped):
            output.note(
                f"stopped: {records.num_done} of {len(points)} points are stored in {out}; the "
                "same command goes on with the others"
            )
            return 128 + records.signal
        found = present(records, store, shlex.join(["muxtable", *sys.argv[1:]]), max_auc_loss)
    output.result(found.to_json(), lambda console: _render(console, found))
    lost = {record.key: record.reason for record in records if record.status == "lost"}
    if lost:
        first = next(iter(lost.values()))
        output.warn(
            f"{len(lost)} points were lost, the first of them: {first}; the same command tries "
            "them again"
        )
        return 1
    return None


def _render(console: Console, found: Found) -> None:
    from launch.sweep.cells import Cells, comparison_table, measured_table, missing_table
    from launch.sweep.summary import missing

    def show(title: str, cells: Cells) -> None:
        columns = [Column(name, right=k >= cells.num_words) for k, name in enumerate(cells.head)]
        if cells.rows:
            console.print(table(title, columns, cells.rows))

    done = [group for group in found.groups if group.status == "done"]
    show("all settings", measured_table(done))
    show("the front", measured_table(found.front))
    show("multiplexed or per feature (Welch's p)", comparison_table(found.pairs))
    show("without a result", missing_table(missing(found.groups)))
    console.print(f"recommended: {found.reason}", soft_wrap=True, markup=False)
    console.print(found.lines, soft_wrap=True, markup=False)
    console.print(f"page  {found.page}", soft_wrap=True, markup=False)
