"""`muxtable export`: a trained table as a version to serve, as Parquet files or as indexes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.codec_trials import draw, render_trials, trials_json, try_all
from launch.console import Column, Output, facts, share_text, size_text, table
from launch.progress import RunProgress
from launch.targets import Checkpoint, RunPath, open_rows, parse_checkpoint
from storage.places import ObjectPath, Place, place_of

if TYPE_CHECKING:
    from features.parquet import Dataset
    from trainer.choose_codec import Trial
    from trainer.export import Export
    from trainer.run import Run

_DEFAULT_CODEC = "float32"
_AUTO = "auto"
_MAX_AUC_LOSS = 0.0005


def command(
    ctx: typer.Context,
    run_path: RunPath,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR|s3://...", help="Folder of versions, or of the files; or a bucket."
        ),
    ],
    to: Annotated[
        Literal["snapshot", "parquet", "faiss"],
        typer.Option(help="A version to serve, or vectors by value: files, indexes beside them."),
    ] = "snapshot",
    codec: Annotated[
        str | None,
        typer.Option(metavar="CODEC|auto", help="How rows are stored: float32 (default), int8..."),
    ] = None,
    max_auc_loss: Annotated[
        float | None,
        typer.Option(min=0, help="What --codec auto may lose of the AUC (default 0.0005)."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Only print and plot bytes against AUC, by codec.")
    ] = False,
    delta_from: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Write only what changed since this version."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILES", help="Parquet files: of the values, or to try codecs on."),
    ] = None,
    checkpoint: Checkpoint = "best",
    name: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Its name; else v- and the step.")
    ] = None,
    no_tower: Annotated[
        bool, typer.Option("--no-tower", help="Leave out the model on top, tower.onnx.")
    ] = False,
) -> None:
    """Write a trained table as a version to serve, as Parquet files or as indexes."""
    output: Output = ctx.obj
    which = parse_checkpoint(checkpoint)
    place = place_of(out, Path())
    own = {"--codec": codec, "--delta-from": delta_from, "--name": name}
    if to != "snapshot":
        _refuse(f"--to {to}", {**own, "--compare": compare or None})
    elif compare:
        _refuse("--compare", own)
    elif isinstance(place, ObjectPath):
        _refuse("a bucket", {"--delta-from": delta_from})
    elif codec != _AUTO:
        _refuse("a version by another codec than auto", {"--data": data})
    if codec != _AUTO:
        _refuse("another codec than auto", {"--max-auc-loss": max_auc_loss})
        _check_codec(codec)
    from trainer.export import Export
    from trainer.run import Run

    run = Run.open(run_path)
    render = _render_version
    with RunProgress(output) as progress, Export(run, which) as export:
        if to != "snapshot":
            dataset = _rows_of(run, data)
            document = _write_values(
                export, progress, dataset, _folder(place), has_index=to == "faiss"
            )
            render = _render_values
        elif compare:
            trials = try_all(export, progress, which, data)
            document = {"step": export.step, "codecs": trials_json(trials)}
            document["chart"] = str(draw(trials, _folder(place)))
            render = render_trials
        elif delta_from is not None:
            document = _write_delta(
                export, progress, _folder(place), delta_from, codec, name, tower=not no_tower
            )
        else:
            trials = None
            if codec == _AUTO:
                trials = try_all(export, progress, which, data)
                codec = _smallest(trials, max_auc_loss)
            document = _write_version(export, progress, place, codec, name, tower=not no_tower)
            if trials is not None:
                document["codecs"] = trials_json(trials)
    output.result(document, lambda console: render(console, document))


def _folder(place: Place) -> Path:
    """Returns a place that is a folder; ConfigError where it is a bucket."""
    if isinstance(place, ObjectPath):
        raise ConfigError(f"{place} is no folder: a bucket takes versions", "give --out a folder")
    return place


def _check_codec(codec: str | None) -> None:
    """Refuses a codec that does not exist before anything slow begins."""
    from storage.codecs import codec_named

    if codec is not None:
        codec_named(codec)


def _smallest(trials: list[Trial], max_auc_loss: float | None) -> str:
    from trainer.choose_codec import choose

    return choose(trials, _MAX_AUC_LOSS if max_auc_loss is None else max_auc_loss).codec


def _refuse(what: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option} does not go with {what}", f"leave {option} out")


def _write_version(
    export: Export,
    progress: RunProgress,
    out: Place,
    codec: str | None,
    name: str | None,
    *,
    tower: bool,
) -> dict[str, Any]:
    from storage.codecs import codec_named
    from storage.versions import version_name
    from trainer.model import num_threads

    name = name or version_name(export.step)
    threads = num_threads(export.run.job.train)
    factory = codec_named(codec or _DEFAULT_CODEC)
    chosen = export.codec(factory)
    progress.stage("export", export.layout.rows)
    written = export.write(
        out, name, chosen, has_tower=tower, threads=threads, on_rows=progress.evaluated
    )
    return {
        "version": written.name,
        "path": str(written.path),
        "digest": written.digest,
        "step": export.step,
        "rows": export.layout.rows,
        "codec": chosen.text,
        "row_bytes": chosen.row_bytes,
        "size_bytes": written.size_bytes,
        "error": written.error.model_dump(),
        "tower": tower,
    }


def _write_delta(
    export: Export,
    progress: RunProgress,
    out: Path,
    delta_from: str,
    codec: str | None,
    name: str | None,
    *,
    tower: bool,
) -> dict[str, Any]:
    from storage.snapshot import open_snapshot
    from storage.versions import version_name
    from trainer.model import num_threads

    name = name or version_name(export.step)
    threads = num_threads(export.run.job.train)
    path = Path(delta_from) if Path(delta_from).parent.name else out / delta_from
    with open_snapshot(path) as parent:
        if codec not in (None, parent.codec.text):
            raise ConfigError(
                f"{path} stores its rows by {parent.codec.text}: a delta by {codec} cannot stand"
                " on it",
                "leave --codec out, or export the version in full",
            )
        # Read through once to compare; what changed is encoded a second time.
        progress.stage("compare", export.layout.rows)
        written = export.write_delta(
            out, name, parent, has_tower=tower, threads=threads, on_rows=progress.evaluated
        )
        text = parent.codec.text
    return {
        "version": name,
        "path": str(written.path),
        "digest": written.digest,
        "step": export.step,
        "rows": written.rows,
        "codec": text,
        "size_bytes": written.size_bytes,
        "delta": {
            "parent": parent.name,
            "changed": written.changed,
            "full_bytes": written.full_bytes,
        },
    }


def _render_version(console: Console, document: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = [
        ("manifest", document["digest"]),
        ("model of", f"step {document['step']:,}"),
        ("rows", f"{document['rows']:,} by {document['codec']}"),
        ("size", size_text(document["size_bytes"])),
    ]
    if "codecs" in document:
        chosen = next(c for c in document["codecs"] if c["codec"] == document["codec"])
        rows.append(("AUC lost", f"{chosen['auc_loss']:+.5f} of {len(document['codecs'])} tried"))
    if "delta" in document:
        delta = document["delta"]
        share = delta["changed"] / max(document["rows"], 1)
        rows += [
            ("since", delta["parent"]),
            ("changed", f"{delta['changed']:,} rows ({share_text(share)})"),
            ("in full", size_text(delta["full_bytes"])),
        ]
    else:
        error = document["error"]
        rows += [
            ("row", size_text(document["row_bytes"])),
            ("off by", f"{error['relative']:.2g} of the norm, {error['largest']:.2g} at most"),
        ]
    console.print(facts(document["path"], rows))


def _rows_of(run: Run, data: str | None) -> Dataset:
    from features.parquet import open_dataset

    return open_rows(data) if data is not None else open_dataset(run.job.data.train, run.base)


def _write_values(
    export: Export, progress: RunProgress, dataset: Dataset, out: Path, *, has_index: bool
) -> dict[str, Any]:
    from dataclasses import replace

    from trainer.export_values import write_values

    feature_set = replace(export.feature_set(), label=None, weight=None)
    dataset.check(feature_set, export.layout.key_classes)
    progress.stage("export", dataset.num_rows)
    files = write_values(
        dataset,
        feature_set,
        export.layout,
        export.vectors(),
        out,
        has_index=has_index,
        on_rows=progress.evaluated,
    )
    return {
        "step": export.step,
        "rows": dataset.num_rows,
        "files": [
            {
                "feature": each.feature,
                "path": str(each.path),
                "values": each.values,
                "index": None if each.index is None else str(each.index),
            }
            for each in files
        ],
    }


def _render_values(console: Console, document: dict[str, Any]) -> None:
    columns = [Column("feature", right=False), Column("values"), Column("file", right=False)]
    rows = [
        (each["feature"], f"{each['values']:,}", each["index"] or each["path"])
        for each in document["files"]
    ]
    title = f"vectors of the values in {document['rows']:,} rows, step {document['step']:,}"
    console.print(table(title, columns, rows))
