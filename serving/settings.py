"""What a parameter service is told when it starts."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from features.errors import ConfigError
from serving.table import Limits

Policy = Literal["latest", "pinned", "manual"]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_Port = Annotated[int, Field(ge=0, le=65535)]


class ServeSettings(BaseModel):
    """A service's settings; `check` holds them against each other."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    directory: Path
    """Directory of versions, as `muxtable export` writes it."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: _Port = 50051
    """Port of the service; 0 takes a free one."""
    health_port: _Port | None = 50052
    """Port of grpc.health.v1, in plain text; None for no such port."""
    metrics_port: _Port | None = 9090
    """Port of GET /metrics, /ready and /live; None for no such port."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes behind the port; they share one mapping of each version."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads that answer lookups, in each process; 0 takes one for each core."""
    max_calls: Annotated[int, Field(ge=1, le=65536)] = 64
    """Calls in a process, waiting ones included; more are refused at once."""
    max_streams: Annotated[int, Field(ge=1, le=256)] = 16
    """FetchShard and WatchVersions streams in a process."""
    max_lookups: Annotated[int, Field(ge=1)] = 1 << 20
    """Rows one call may ask for."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 16 << 20
    """Bytes of a request."""
    max_reply_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 64 << 20
    """Bytes of rows in a reply."""
    policy: Policy = "latest"
    """What is promoted without a command: the newest, the pinned version, or nothing."""
    pin: str | None = None
    """The version of the policy "pinned"."""
    follow: str | None = None
    """Where new versions come from: a directory, s3://bucket/prefix, or host:port of a service."""
    poll_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """Seconds between looks for new versions."""
    follow_token: Path | None = None
    """File with the bearer token for the service that is followed."""
    follow_ca: Path | None = None
    """Certificates (PEM) that the service that is followed is checked against."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) of the service."""
    tls_key: Path | None = None
    """Private key (PEM) of the service."""
    client_ca: Path | None = None
    """Certificates (PEM) that clients must have one from."""
    access: Path | None = None
    """File of roles: lines "ROLE token TOKEN" and "ROLE san NAME"; read again when it changes."""
    insecure: bool = False
    """Listen beyond loopback without TLS."""
    reflection: bool = False
    """Offer gRPC reflection to callers who may read."""
    access_log: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of calls that are logged; failed ones are logged whenever it is above 0."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds between saying NOT_SERVING and refusing calls, after SIGTERM."""
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds that calls under way have to end, after SIGTERM."""

    @property
    def num_threads(self) -> int:
        """Threads that answer lookups."""
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def limits(self) -> Limits:
        """What one call may ask for."""
        return Limits(
            max_lookups=self.max_lookups,
            max_request_bytes=self.max_request_bytes,
            max_reply_bytes=self.max_reply_bytes,
        )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can call."""
        return self.host in _LOOPBACK

    @property
    def has_tls(self) -> bool:
        """Whether calls are encrypted."""
        return self.tls_cert is not None

    def check(self) -> None:
        """Raises ConfigError for settings that contradict each other."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together", "give both, or neither")
        if self.client_ca is not None and not self.has_tls:
            raise ConfigError("--client-ca needs TLS", "give --tls-cert and --tls-key, too")
        if not (self.is_loopback or self.has_tls or self.insecure):
            raise ConfigError(
                f"{self.host} can be reached by others, and calls would not be encrypted",
                "give --tls-cert and --tls-key; --insecure allows it all the same",
            )
        if (self.policy == "pinned") != (self.pin is not None):
            raise ConfigError(
                'the policy "pinned" and --pin go together', "give both, or another policy"
            )
        if not self.directory.is_dir() and self.follow is None:
            raise ConfigError(
                f'there is no directory "{self.directory}"',
                "give the directory that `muxtable export --out` wrote versions to",
            )
