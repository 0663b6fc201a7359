"""`muxtable versions`: what a service or a directory of versions has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from launch.console import Column, Output, table
from launch.remote import Ca, Cert, Key, Target, TokenFile, is_service, open_client


def command(
    ctx: typer.Context,
    target: Target,
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """List the versions of a directory, a bucket or a running service, with their states."""
    output: Output = ctx.obj
    if is_service(target):
        with open_client(target, token_file, ca, cert, key) as client:
            document = _of_service(client.versions())
    elif "://" in target:
        document = _of_bucket(target)
    else:
        document = _of_directory(Path(target))
    output.result(document, lambda console: _render(console, document))


def _of_service(reply: Any) -> dict[str, Any]:
    from serving.versions import state_name

    return {
        "current": reply.stamp.version or None,
        "promotion": reply.stamp.counter,
        "pinned": reply.pinned or None,
        "versions": [
            {
                "name": each.name,
                "state": state_name(each.state),
                "labels": list(each.labels),
                "digest": each.digest.hex(),
                "error": each.error or None,
            }
            for each in reply.versions
        ],
    }


def _of_bucket(target: str) -> dict[str, Any]:
    from storage.object_versions import ObjectVersions
    from storage.places import ObjectPath, place_of

    place = place_of(target, Path())
    assert isinstance(place, ObjectPath)  # noqa: S101  no other target has a :// in it
    nothing: dict[str, Any] = {"labels": [], "digest": None, "error": None}
    return {
        "current": None,
        "promotion": 0,
        "pinned": None,
        "versions": [
            {"name": name, "state": "in the bucket", **nothing}
            for name in ObjectVersions(place).names()
        ],
    }


def _of_directory(directory: Path) -> dict[str, Any]:
    from serving.promotions import read_promotions
    from storage.versions import version_names

    promotions = read_promotions(directory)
    labels = {"current": promotions.current, "previous": promotions.previous, **promotions.labels}
    digests = dict(promotions.stack)
    return {
        "current": promotions.current or None,
        "promotion": promotions.counter,
        "pinned": promotions.pinned or None,
        "versions": [
            {
                "name": name,
                "state": "on disk",
                "labels": [label for label, version in labels.items() if version == name],
                "digest": digests.get(name),
                "error": None,
            }
            for name in version_names(directory)
        ],
    }


def _render(console: Console, document: dict[str, Any]) -> None:
    heads = [
        Column("version", right=False),
        Column("state", right=False),
        Column("labels", right=False),
        Column("digest", right=False),
        Column("error", right=False),
    ]
    lines = [
        [
            each["name"],
            each["state"],
            " ".join(each["labels"]),
            (each["digest"] or "")[:12],
            each["error"] or "",
        ]
        for each in document["versions"]
    ]
    pinned = f", pinned to {document['pinned']}" if document["pinned"] else ""
    console.print(table(f"promotion {document['promotion']}{pinned}", heads, lines))
