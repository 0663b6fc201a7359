"""`muxtable serve`: the parameter service, until it is told to end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError
from launch.console import Output, facts

if TYPE_CHECKING:
    from serving.process import Service
    from serving.settings import ServeSettings
    from serving.supervisor import Supervisor

_File = Path | None
_TLS = "TLS and access"
_LIMITS = "Limits"


def command(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory of versions (`export --out`).")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 50051,
    health_port: Annotated[
        int, typer.Option(help="Port of grpc.health.v1, in plain text; -1 for none.")
    ] = 50052,
    metrics_port: Annotated[
        int, typer.Option(help="Port of GET /metrics, /ready and /live; -1 for none.")
    ] = 9090,
    processes: Annotated[int, typer.Option(help="Processes behind the port.")] = 1,
    threads: Annotated[
        int, typer.Option(help="Threads for lookups, in each process; 0: one a core.")
    ] = 0,
    policy: Annotated[
        str,
        typer.Option(metavar="latest|pinned|manual", help="What is promoted without a command."),
    ] = "latest",
    pin: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version of --policy pinned.")
    ] = None,
    follow: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|s3://...|HOST:PORT",
            help="Take over new versions from a directory, a bucket or another service.",
        ),
    ] = None,
    poll_s: Annotated[float, typer.Option(help="Seconds between looks for new versions.")] = 1.0,
    follow_token: Annotated[
        _File, typer.Option(metavar="FILE", help="Bearer token for the followed service.")
    ] = None,
    follow_ca: Annotated[
        _File, typer.Option(metavar="FILE", help="Certificates (PEM) to check it against.")
    ] = None,
    tls_cert: Annotated[
        _File,
        typer.Option(metavar="FILE", help="Certificate chain (PEM).", rich_help_panel=_TLS),
    ] = None,
    tls_key: Annotated[
        _File, typer.Option(metavar="FILE", help="Private key (PEM).", rich_help_panel=_TLS)
    ] = None,
    client_ca: Annotated[
        _File,
        typer.Option(
            metavar="FILE",
            help="Clients must have a certificate from one of these.",
            rich_help_panel=_TLS,
        ),
    ] = None,
    access: Annotated[
        _File,
        typer.Option(
            metavar="FILE",
            help="Roles: lines 'ROLE token TOKEN' and 'ROLE san NAME'.",
            rich_help_panel=_TLS,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Listen beyond loopback without TLS.", rich_help_panel=_TLS
        ),
    ] = False,
    reflection: Annotated[
        bool,
        typer.Option("--reflection", help="Offer gRPC reflection.", rich_help_panel=_TLS),
    ] = False,
    max_calls: Annotated[
        int,
        typer.Option(help="Calls in a process, waiting ones included.", rich_help_panel=_LIMITS),
    ] = 64,
    max_streams: Annotated[
        int, typer.Option(help="Streams in a process.", rich_help_panel=_LIMITS)
    ] = 16,
    max_lookups: Annotated[
        int, typer.Option(help="Rows a call may ask for.", rich_help_panel=_LIMITS)
    ] = 1 << 20,
    max_request_bytes: Annotated[
        int, typer.Option(help="Bytes of a request.", rich_help_panel=_LIMITS)
    ] = 16 << 20,
    max_reply_bytes: Annotated[
        int, typer.Option(help="Bytes of rows in a reply.", rich_help_panel=_LIMITS)
    ] = 64 << 20,
    access_log: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of calls logged, as JSON on stderr.")
    ] = 0.0,
    drain_s: Annotated[
        float, typer.Option(help="Seconds from NOT_SERVING to refusing calls, at the end.")
    ] = 0.0,
    grace_s: Annotated[
        float, typer.Option(help="Seconds that calls under way have, at the end.")
    ] = 10.0,
) -> None:
    """Answer lookups over gRPC until SIGTERM or Ctrl-C; versions change while it runs."""
    output: Output = ctx.obj
    settings = _settings(
        directory=directory,
        host=host,
        port=port,
        health_port=health_port if health_port >= 0 else None,
        metrics_port=metrics_port if metrics_port >= 0 else None,
        processes=processes,
        threads=threads,
        policy=policy,
        pin=pin,
        follow=follow,
        poll_s=poll_s,
        follow_token=follow_token,
        follow_ca=follow_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        access=access,
        insecure=insecure,
        reflection=reflection,
        max_calls=max_calls,
        max_streams=max_streams,
        max_lookups=max_lookups,
        max_request_bytes=max_request_bytes,
        max_reply_bytes=max_reply_bytes,
        access_log=access_log,
        drain_s=drain_s,
        grace_s=grace_s,
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    service = _start(settings)
    document = _document(service, settings)
    output.result(document, lambda console: _render(console, document))
    ended.wait()
    output.note("draining: calls under way are answered, new ones refused")
    service.drain()


def _settings(**values: Any) -> ServeSettings:
    from pydantic import ValidationError

    from serving.settings import ServeSettings

    try:
        return ServeSettings(**values)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        option = "--" + str(error["loc"][0]).replace("_", "-")
        message = error["msg"]
        raise ConfigError(
            f"{option}: {message[0].lower()}{message[1:]}", "`muxtable serve --help` lists them"
        ) from exc


def _start(settings: ServeSettings) -> Service | Supervisor:
    if settings.processes == 1:
        from serving.process import Service

        return Service(settings)
    from serving.supervisor import Supervisor

    return Supervisor(settings)


def _document(service: Service | Supervisor, settings: ServeSettings) -> dict[str, Any]:
    promotions = service.coordinator.promotions
    return {
        "address": f"{settings.host}:{service.port}",
        "health": service.health_port,
        "metrics": service.metrics_port,
        "processes": settings.processes,
        "version": promotions.current or None,
        "promotion": promotions.counter,
    }


def _render(console: Console, document: dict[str, Any]) -> None:
    rows = [
        ("version", document["version"] or "none in force yet"),
        ("health", document["health"] or "no port"),
        ("metrics", document["metrics"] or "no port"),
        ("processes", document["processes"]),
    ]
    console.print(facts(f"serving on {document['address']}", rows))
