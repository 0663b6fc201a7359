"""`muxtable inspect`: what lies in the folder of a run, or in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Column, Output, facts, size_text, table


def command(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="Folder of a run, or of a checkpoint.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read every file and compare its sha256.")
    ] = False,
) -> None:
    """Summarise a run (state, metrics, checkpoints) or a checkpoint (tensors, files, position)."""
    output: Output = ctx.obj
    if (path / "manifest.json").exists():
        bundle = _bundle(path, verify=verify)
        output.result(bundle, lambda console: _render_bundle(console, bundle))
        return
    if not (path / "job.json").exists():
        raise ConfigError(
            f"{path} is neither a run nor a checkpoint",
            "name a folder with a job.json (a run) or a manifest.json (a checkpoint)",
        )
    run = _run(path, verify=verify)
    output.result(run, lambda console: _render_run(console, run))


def _bundle(path: Path, *, verify: bool) -> dict[str, Any]:
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


def _run(path: Path, *, verify: bool) -> dict[str, Any]:
    from trainer.run import Run, job_digest

    run = Run.open(path)
    result = run.result()
    checkpoints = []
    for folder in sorted(run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []:
        if not (folder / "manifest.json").exists():
            continue
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
        "job_digest": job_digest(run.job),
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
