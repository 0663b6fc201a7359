"""Options of commands that talk to a running service, and the client they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from features.errors import ConfigError

if TYPE_CHECKING:
    from serving.client import Client

TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token.", metavar="FILE")
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", help="Certificates (PEM) the service is checked against.", metavar="FILE"),
]
Cert = Annotated[
    Path | None, typer.Option("--cert", help="Certificate (PEM) of the caller.", metavar="FILE")
]
Key = Annotated[
    Path | None, typer.Option("--key", help="Private key (PEM) of the caller.", metavar="FILE")
]
Target = Annotated[
    str,
    typer.Argument(metavar="DIR|HOST:PORT", help="Directory of versions, or a running service."),
]


def is_service(target: str) -> bool:
    """Whether a target is the address of a service; a directory of that name comes first."""
    return ":" in target and "://" not in target and not Path(target).exists()


def folder(target: str) -> Path:
    """Returns a target that is a directory; ConfigError where it is a bucket."""
    if "://" in target:
        raise ConfigError(
            f"{target} has no version in force: services that follow a bucket have",
            "give the address of such a service",
        )
    return Path(target)


def open_client(
    target: str, token_file: Path | None, ca: Path | None, cert: Path | None, key: Path | None
) -> Client:
    """Returns a client of the service at host:port; ConfigError for files that are not there."""
    from serving.client import Client

    token = _read(token_file)
    return Client(
        target,
        timeout_s=10.0,
        token=None if token is None else token.decode().strip(),
        ca=_read(ca),
        cert=_read(cert),
        key=_read(key),
        channels=1,
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", "check the path") from exc
