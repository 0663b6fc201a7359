"""`muxtable lookup`: where one value lives in a trained table, with whom, and as what vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Column, Output, facts, table
from launch.remote import Ca, Cert, Key, TokenFile, open_client
from launch.remote_lookup import look_up_at
from launch.targets import Checkpoint, open_rows, parse_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from features.batches import KeyColumn
    from features.parquet import Dataset
    from features.routing import FeatureRoute

# Negative numbers look like options; typer hands unknown options through as values.
CONTEXT_SETTINGS = {"ignore_unknown_options": True}
_SHOWN = 8
_MOST_ROWS = 64


def command(
    ctx: typer.Context,
    run_path: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run; not with --server.")
    ],
    feature: Annotated[str | None, typer.Argument(help="Embedded feature.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="VALUE...", help="The value; for a cross one for each part."),
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="Look up null instead of a value.")] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILES", help="Parquet files to look for values in the same rows."),
    ] = None,
    checkpoint: Checkpoint = "best",
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask a running service instead.")
    ] = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """Print the rows of one value, the values seen in the same rows, and its vector."""
    output: Output = ctx.obj
    words = [*([] if feature is None else [feature]), *(values or [])]
    if server is not None:
        feature = str(run_path)
    elif words:
        feature = words.pop(0)
    else:
        raise ConfigError("there is no feature", "give RUN, FEATURE and a VALUE")
    for word in words:
        if word.startswith("--"):
            raise ConfigError(f"there is no option {word}", "`muxtable lookup --help` lists them")
    if null == bool(words):
        raise ConfigError("one value is looked up at a time", "give a value, or --null")
    if server is not None:
        with open_client(server, token_file, ca, cert, key) as client:
            found = look_up_at(client, server, feature, words)
        output.result(found, lambda console: render_remote(console, found))
        return
    which = parse_checkpoint(checkpoint)
    dataset = None if data is None else open_rows(data)
    document = look_up(run_path, feature, words, dataset, which)
    output.result(document, lambda console: render_lookup(console, document))


def look_up(
    run_path: Path, feature: str, words: list[str], dataset: Dataset | None, which: str | int
) -> dict[str, Any]:
    """Returns what there is to say of a value; no word stands for null."""
    import numpy as np

    from features.schema import FeatureSet
    from launch.residents import find_residents, find_route, parse_value
    from storage.vectors import combined
    from trainer.run import Run
    from trainer.saving import layout_in, open_checkpoint, state_in

    run = Run.open(run_path)
    job = run.job
    with open_checkpoint(run.checkpoints, which) as bundle:
        layout = layout_in(bundle)
        step = state_in(bundle).step
        route = find_route(layout, feature)
        value = parse_value(layout, route, words)
        rows = layout.rows_of(feature, value)[:, 0].tolist()

        def read(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
            found = [bundle.read_rows("table.weight", row, row + 1)[0] for row in numbers.tolist()]
            return np.stack(found)

        if route.reader is None:
            vector = read(np.array(rows)).reshape(-1)
        else:
            vector = combined(route.reader, value, read)[0]
    document: dict[str, Any] = {
        "run": str(run_path),
        "step": step,
        "feature": feature,
        "value": words if len(words) != 1 else words[0],
        # Of a popular value, where its rows are.
        "region": layout.region_of(rows[0]).name,
        "exact": route.vocabulary is not None,
        "seen_in_training": _is_seen(route, value) if words else None,
        "rows": rows,
        "vector": vector.tolist(),
        "reader": None if route.reader is None else route.reader.kind,
    }
    if dataset is not None:
        feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
        dataset.check(feature_set, layout.key_classes)
        found = find_residents(dataset, feature_set, layout, route, value)
        document["seen"] = found.rows
        document["residents"] = [
            {
                "row": each.row,
                "lookup": each.lookup,
                "same_feature": sorted(each.same.values()),
                "others": len(each.others),
            }
            for each in found.residents
        ]
    return document


def _is_seen(route: FeatureRoute, value: KeyColumn) -> bool | None:
    """Whether training saw a value; None where that is not known: most hashed ones are not kept."""
    if route.vocabulary is not None:
        return bool(value.keys[0] in route.vocabulary)
    if route.reader is not None and route.reader.vocabulary is not None:
        return bool(value.keys[0] in route.reader.vocabulary)
    popular = () if route.popular is None else (route.popular.hot, route.popular.frequent)
    return True if any(each and value.keys[0] in each.keys for each in popular) else None


def render_remote(console: Console, document: dict[str, Any]) -> None:
    """Draws the answer of a service for a person."""
    value = document["value"]
    name = " x ".join(value) if isinstance(value, list) else value
    rows = [("answered by", f"{document['version']} (promotion {document['promotion']})")]
    console.print(facts(f"{document['feature']} = {name or 'null'}", rows))
    width = len(document["vector"]) // document["lookups"]
    lines = [
        [k, _vector_text(document["vector"][k * width : (k + 1) * width])]
        for k in range(document["lookups"])
    ]
    console.print(table("", [Column("lookup"), Column("vector", right=False)], lines))


def render_lookup(console: Console, document: dict[str, Any]) -> None:
    """Draws a lookup for a person."""
    value = document["value"]
    name = " x ".join(value) if isinstance(value, list) else value
    kind = f"region {document['region']}"
    if document["exact"]:
        is_unseen = document["seen_in_training"] is False
        kind = "the rows of values never seen in training" if is_unseen else "rows of its own"
    rows: list[tuple[str, Any]] = [("stored in", kind), ("model of", f"step {document['step']:,}")]
    if "seen" in document:
        rows.append(("seen in", f"{document['seen']:,} rows"))
    console.print(facts(f"{document['feature']} = {name or 'null'}", rows))
    is_whole = document["reader"] is not None
    if is_whole:
        title = f"vector, made of {len(document['rows']):,} rows ({document['reader']})"
        console.print(facts(title, [("", _vector_text(document["vector"]))]))
    width = len(document["vector"]) // len(document["rows"])
    residents = None
    heads = [Column("lookup"), Column("row")]
    if not is_whole:
        heads.append(Column("vector", right=False))
    if "residents" in document:
        residents = {each["lookup"]: each for each in document["residents"]}
        heads += [Column("same feature, same row", right=False), Column("of others")]
    lines = []
    for k, row in enumerate(document["rows"][:_MOST_ROWS]):
        line: list[Any] = [k, f"{row:,}"]
        if not is_whole:
            line.append(_vector_text(document["vector"][k * width : (k + 1) * width]))
        if residents is not None:
            here = residents.get(k)
            line += ["by design", ""] if here is None else _residents(here)
        lines.append(line)
    console.print(table("", heads, lines))


def _residents(found: dict[str, Any]) -> list[str]:
    return [_names(found["same_feature"]), f"{found['others']:,}"]


def _vector_text(vector: list[float]) -> str:
    shown = " ".join(f"{number:+.3f}" for number in vector[:_SHOWN])
    return shown + (f" ... ({len(vector)})" if len(vector) > _SHOWN else "")


def _names(names: list[str]) -> str:
    if not names:
        return "nobody"
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
