"""Whether we may talk to Ray, asked before Ray is: the release, the token, the address.

Left to itself Ray tries for minutes to reach an address where nothing answers, and for 20 seconds
with a wrong token, while its native code fills the terminal.
"""

from __future__ import annotations

import importlib.metadata
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    import grpc

# Below it a Parquet file may run code in a worker (CVE-2026-41486).
OLDEST_RAY = (2, 55)
_ANSWER_S = 5.0

# Read by Ray when it is imported, and given on to its controller and workers.
ENVIRONMENT = {
    # Seconds between looks at the workers: how soon an end or a death is noticed (default 2).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A worker that answers no longer (default 600).
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # How long a frozen worker holds up the end of its group (default 30).
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def check_release() -> None:
    """Raises ConfigError unless Ray is installed and new enough."""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            "several workers need ray, which is not installed", "pip install 'muxtable[ray]'"
        ) from None
    if tuple(map(int, version.split(".")[:2])) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        raise ConfigError(
            f"ray {version} is installed; before {oldest} a Parquet file could run code in it",
            f"pip install 'ray[train,default]>={oldest}', on every node of the cluster",
        )


def prepare(own: Path | None) -> None:
    """Sets the environment that Ray is imported in; token authentication is always on.

    Raises ConfigError where it was switched off, or where there is no token. A cluster of our own
    gets a token of its own then, in the folder `own`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise ConfigError(
            f"RAY_AUTH_MODE is {mode}: whoever reaches the ports of such a cluster runs code on it",
            "start the cluster with RAY_AUTH_MODE=token, and unset it or set it so here",
        )
    if find_token() is not None:
        return
    if own is None:
        raise ConfigError(
            "there is no token for the cluster",
            "set RAY_AUTH_TOKEN_PATH to a file with the cluster's token",
        )
    os.environ["RAY_AUTH_TOKEN_PATH"] = _new_token(own / "token")


def find_token() -> str | None:
    """Returns the token that Ray would use; ConfigError where its file cannot be read."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as exc:
        if named is None:
            return None
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigError(
            f"RAY_AUTH_TOKEN_PATH: {named} cannot be read: {reason}",
            "name a file with the cluster's token",
        ) from exc


def _new_token(path: Path) -> str:
    """Writes a token that only this user can read; returns its path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return str(path)


def check_address(address: str) -> None:
    """Raises ConfigError unless a Ray head answers at HOST:PORT and takes our token."""
    import grpc

    host, colon, port = address.rpartition(":")
    if "://" in address or not (host and colon and port.isdigit()):
        raise ConfigError(
            f'--address "{address}" is not the address of a Ray head',
            "give HOST:PORT of `ray start --head`, auto, or local; "
            "`muxtable submit` takes http://HOST:PORT",
        )
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        # The question every client of Ray asks first; an empty message is a whole one.
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(
                b"",
                timeout=_ANSWER_S,
                metadata=[("authorization", f"Bearer {find_token() or ''}")],
            )
        except grpc.RpcError as exc:
            raise _refusal(address, exc) from exc


def _refusal(address: str, error: grpc.RpcError) -> ConfigError | UnavailableError:
    import grpc

    code, details = error.code(), str(error.details())
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return ConfigError(
            f"the cluster at {address} refuses our token",
            "set RAY_AUTH_TOKEN_PATH to a file with the token of that cluster",
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        reason = details.rpartition(": ")[2].strip().lower() or "no answer"
        return ConfigError(
            f"no Ray cluster answers at {address}: {reason}",
            "check the address and that the cluster runs (`ray status`); without --address a "
            "local one is started",
        )
    return ConfigError(
        f"what answers at {address} is no Ray head of this release: {code.name.lower()}",
        "give the HOST:PORT that `ray start --head` printed",
    )
