"""`muxtable inspect`: what lies in the folder of a run, in a checkpoint or in a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Column, Output, facts, size_text, table
from launch.inspected import Question, render_inspection, write_inspection
from launch.targets import Checkpoint

if TYPE_CHECKING:
    from storage.places import Place


def command(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="Folder of a run, checkpoint or version.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read every file and compare its sha256.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page about the trained table."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILES", help="Parquet files to measure on instead of the run's."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows to measure on; 2,000,000 and 200,000 if unset.")
    ] = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Summarise a run, a checkpoint or a version; or report on the table it holds."""
    output: Output = ctx.obj
    if report is not None:
        question = Question(
            path=path, report=report, data=data, most_rows=rows, checkpoint=checkpoint
        )
        document = write_inspection(question, output)
        output.result(document, lambda console: render_inspection(console, document))
        return
    if data is not None or rows is not None or checkpoint != "best":
        raise ConfigError(
            "--data, --rows and --checkpoint say what a report is measured on, and there is none",
            "add --report FILE.html",
        )
    if (path / "manifest.json").exists():
        bundle = _bundle(path, verify=verify)
        if verify and bundle["kind"] == "snapshot":
            bundle |= _proof(path)
        output.result(bundle, lambda console: _render_bundle(console, bundle))
        return
    if not (path / "job.json").exists():
        raise ConfigError(
            f"{path} is neither a run nor a checkpoint or a version",
            "name a folder with a job.json (a run) or a manifest.json (the others)",
        )
    run = _run(path, verify=verify)
    output.result(run, lambda console: _render_run(console, run))


def _bundle(path: Place, *, verify: bool) -> dict[str, Any]:
    from storage.bundle import open_bundle

    with open_bundle(path, verify=verify) as bundle:
        return {
            "path": str(path),
            "kind": bundle.manifest.kind,
            "digest": bundle.digest,
            "parent": bundle.manifest.parent,
            "attempt": bundle.manifest.attempt,
            "size_bytes": bundle.size_bytes,
            "verified": verify,
            "tensors": [
                {
                    "name": entry.name,
                    "dtype": entry.dtype,
                    "shape": list(entry.shape),
                    "parts": len(entry.parts),
                }
                for entry in bundle.manifest.tensors
            ],
            "files": [{"name": f.name, "size_bytes": f.size} for f in bundle.files],
            "content": bundle.content,
        }


def _proof(path: Path) -> dict[str, Any]:
    """Looks up a version's probes; of a delta, makes the whole version and compares its digest."""
    from storage.bundle import open_bundle
    from storage.snapshot import open_snapshot
    from storage.snapshot_apply import prove_delta
    from storage.snapshot_delta import is_delta

    with open_bundle(path, verify=False) as bundle:
        has_parent = is_delta(bundle)
    if has_parent:
        return {"proved": prove_delta(path)}
    with open_snapshot(path, verify="lazy") as snapshot:
        return {"probes": len(snapshot.record.probes)}


def _run(path: Path, *, verify: bool) -> dict[str, Any]:
    from trainer.latest import checkpoint_places
    from trainer.run import Run

    run = Run.open(path)
    result = run.result()
    checkpoints = []
    for folder in checkpoint_places(run.checkpoints):
        bundle = _bundle(folder, verify=verify)
        state = bundle["content"].get("state", {})
        checkpoints.append(
            {
                "path": str(folder),
                "step": state.get("step"),
                "size_bytes": bundle["size_bytes"],
                "digest": bundle["digest"],
                "verified": verify,
            }
        )
    files = run.files()
    return {
        "path": str(path),
        "finished": result is not None,
        "job_digest": run.digest,
        "data": {
            part: {"files": len(f), "rows": sum(e["rows"] for e in f)} for part, f in files.items()
        },
        "result": result,
        "checkpoints": checkpoints,
    }


def _render_run(console: Console, run: dict[str, Any]) -> None:
    result = run["result"]
    rows: list[tuple[str, Any]] = [("job", run["job_digest"][:16])]
    rows += [
        (part, f"{facts_['rows']:,} rows in {facts_['files']} files")
        for part, facts_ in run["data"].items()
    ]
    if result is None:
        rows.append(("state", "not finished; `muxtable train` goes on with it"))
    else:
        best = f", best {result['best_step']:,}" if result["best_step"] is not None else ""
        rows.append(("state", f"finished at step {result['steps']:,}{best}"))
        rows.append(("peak memory", size_text(result["memory"]["peak_bytes"])))
    console.print(facts(f"run {run['path']}", rows))
    if result is not None and result["metrics"]:
        from launch.commands.train import metrics_table
        from trainer.metrics import Metrics

        metrics = {part: Metrics.from_json(tree) for part, tree in result["metrics"].items()}
        console.print(metrics_table("metrics of the best model", metrics))
    columns = [Column("checkpoint", right=False), Column("step"), Column("size"), Column("files")]
    lines = [
        (
            Path(each["path"]).name,
            "-" if each["step"] is None else f"{each['step']:,}",
            size_text(each["size_bytes"]),
            "verified" if each["verified"] else "not read",
        )
        for each in run["checkpoints"]
    ]
    console.print(table("checkpoints", columns, lines))


def _render_bundle(console: Console, bundle: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = [
        ("kind", bundle["kind"]),
        ("manifest", bundle["digest"]),
        ("parent", bundle["parent"] or "none"),
        ("size", f"{size_text(bundle['size_bytes'])} in {len(bundle['files'])} files"),
        ("contents", "verified" if bundle["verified"] else "not read (--verify reads them)"),
    ]
    state = bundle["content"].get("state")
    if isinstance(state, dict):
        place = f"step {state['step']:,}, epoch {state['epoch']}, {state['samples']:,} samples"
        rows.append(("position", place))
    rows += _version_rows(bundle)
    console.print(facts(bundle["path"], rows))
    columns = [
        Column("tensor", right=False),
        Column("type", right=False),
        Column("shape"),
        Column("parts"),
    ]
    lines = [
        (t["name"], t["dtype"], " x ".join(f"{n:,}" for n in t["shape"]) or "scalar", t["parts"])
        for t in bundle["tensors"]
    ]
    console.print(table("tensors", columns, lines))


def _version_rows(bundle: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a version says of itself, and whether what was to be shown was."""
    record = bundle["content"].get("snapshot")
    if not isinstance(record, dict):
        return []
    lineage, error = record["lineage"], record["error"]
    rows: list[tuple[str, Any]] = [
        ("version", f"{record['name']}, step {lineage['step']:,} of run {lineage['run']}"),
        ("checkpoint", lineage["checkpoint"]),
        ("codec", f"{record['codec']['name']}, {record['row_bytes']:,} bytes a row"),
        ("off by", f"{error['relative']:.2g} of the norm, {error['largest']:.2g} at most"),
    ]
    delta = bundle["content"].get("snapshot_delta")
    if isinstance(delta, dict):
        rows.append(("since", f"{delta['parent']}: {delta['changed']:,} rows changed"))
    if "proved" in bundle:
        rows.append(("whole", f"{bundle['proved']}, as exported in full"))
    if "probes" in bundle:
        rows.append(("probes", f"{bundle['probes']} features as when it was written"))
    return rows
