"""`muxtable promote`: puts a version in force."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from launch.console import Output
from launch.remote import Ca, Cert, Key, Target, TokenFile, folder, is_service, open_client


def command(
    ctx: typer.Context,
    target: Target,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Name of the version.")],
    pin: Annotated[bool, typer.Option("--pin", help="Keep it in force whatever arrives.")] = False,
    other_features: Annotated[
        bool,
        typer.Option("--other-features", help="Although its features or width are others."),
    ] = False,
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """Verify a version and put it in force, in every process of a service or on disk."""
    output: Output = ctx.obj
    if is_service(target):
        with open_client(target, token_file, ca, cert, key) as client:
            client.load(version)
            stamp = client.promote(version, other_features=other_features)
            if pin:
                client.pin(version)
            document: dict[str, Any] = {"version": stamp.version, "promotion": stamp.counter}
    else:
        document = _on_disk(folder(target), version, pin)
    tell(output, document)


def tell(output: Output, document: dict[str, Any]) -> None:
    """Prints what is in force now."""
    output.result(
        document,
        lambda console: console.print(
            f"{document['version']} is in force (promotion {document['promotion']})"
        ),
    )


def _on_disk(directory: Path, version: str, pin: bool) -> dict[str, Any]:
    from serving.promotions import read_promotions, write_promotions
    from storage.snapshot import open_snapshot

    promotions = read_promotions(directory)
    with open_snapshot(directory / version) as snapshot:
        promotions = promotions.promoted(snapshot.name, snapshot.digest)
    if pin:
        promotions = promotions.pinned_to(version)
    write_promotions(directory, promotions)
    return {"version": promotions.current, "promotion": promotions.counter}
