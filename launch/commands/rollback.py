"""`muxtable rollback`: puts the version before the current one in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from launch.commands.promote import tell
from launch.console import Output
from launch.remote import Ca, Cert, Key, Target, TokenFile, folder, is_service, open_client


def command(
    ctx: typer.Context,
    target: Target,
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """Put the version in force that was so before, in every process of a service or on disk."""
    output: Output = ctx.obj
    if is_service(target):
        with open_client(target, token_file, ca, cert, key) as client:
            stamp = client.rollback()
            document: dict[str, Any] = {"version": stamp.version, "promotion": stamp.counter}
    else:
        document = _on_disk(folder(target))
    tell(output, document)


def _on_disk(directory: Path) -> dict[str, Any]:
    from dataclasses import replace

    from serving.promotions import read_promotions, write_promotions
    from storage.snapshot import open_snapshot

    promotions = replace(read_promotions(directory).rolled_back(), pinned="")
    open_snapshot(directory / promotions.current, True, promotions.digest).close()
    write_promotions(directory, promotions)
    return {"version": promotions.current, "promotion": promotions.counter}
