"""Calls of a parameter service, as messages: channels, credentials, retries, deadlines.

A channel has one connection with about a hundred calls at a time; more of them wait inside the
client, unseen. So there are several channels, each with its threads. What failed before the service
began with it (refused for load, no connection, draining) is tried again until the deadline.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from features.errors import ConfigError, MuxtableError
from native import memory
from serving.status import error_of
from serving.stubs import admin_pb2, parameter_pb2

PARAMETER = "/muxtable.v1.ParameterService/"
ADMIN = "/muxtable.v1.AdminService/"
MAX_REPLY_BYTES = 256 << 20
_FIRST_WAIT_S = 0.02
_MOST_WAIT_S = 1.0
# Refused before it began, so that a second try does nothing twice.
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


# One name may stand for many services, as that of a headless Service does: take turns.
_TURNS = '{"loadBalancingConfig": [{"round_robin": {}}]}'


def channel_options(number: int, max_reply_bytes: int) -> list[tuple[str, int | str]]:
    """Returns the options of a channel; the number keeps channels from sharing a connection."""
    return [
        ("grpc.service_config", _TURNS),
        ("grpc.use_local_subchannel_pool", 1),
        ("muxtable.channel", number),
        ("grpc.max_receive_message_length", max_reply_bytes + (1 << 20)),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def channel_credentials(
    ca: bytes | None, cert: bytes | None, key: bytes | None
) -> grpc.ChannelCredentials:
    """Returns TLS credentials; without `ca` the system's certificates are trusted."""
    if (cert is None) != (key is None):
        raise ConfigError("a client certificate needs its key", "give both, or neither")
    return grpc.ssl_channel_credentials(ca, key, cert)


def metadata_of(token: str | None) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of every call."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def wait_s(attempt: int) -> float:
    """Returns how long to wait before a try; random, so that clients do not come back together."""
    longest = min(_FIRST_WAIT_S * 2**attempt, _MOST_WAIT_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


class Wire:
    """A service at `target` (host:port); safe for any number of threads."""

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        tls: bool = False,
        ca: bytes | None = None,
        cert: bytes | None = None,
        key: bytes | None = None,
        channels: int = 1,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        memory.tune_allocator()
        self.target = target
        self.max_reply_bytes = max_reply_bytes
        self._metadata = metadata_of(token)
        self._channels = []
        for number in range(channels):
            options = channel_options(number, max_reply_bytes)
            if tls or ca is not None or cert is not None:
                credentials = channel_credentials(ca, cert, key)
                self._channels.append(grpc.secure_channel(target, credentials, options))
            else:
                self._channels.append(grpc.insecure_channel(target, options))
        self._calls: dict[str, list[Callable[..., bytes]]] = {}
        # Each thread keeps to one channel: two on one would wait for each other.
        self._place = threading.local()
        self._places = itertools.count()

    def lookup(self, request: bytes, timeout_s: float) -> bytes:
        """Sends a LookupRequest; returns the LookupReply as it came."""
        return self._call(f"{PARAMETER}Lookup", request, timeout_s)

    def lookup_rows(self, request: bytes, timeout_s: float) -> bytes:
        """Sends a LookupRowsRequest; returns the LookupReply as it came."""
        return self._call(f"{PARAMETER}LookupRows", request, timeout_s)

    def get_manifest(
        self, choice: parameter_pb2.Choice, timeout_s: float
    ) -> parameter_pb2.GetManifestReply:
        """Returns what a version holds."""
        request = parameter_pb2.GetManifestRequest(choice=choice)
        data = self._call(f"{PARAMETER}GetManifest", request.SerializeToString(), timeout_s)
        return parameter_pb2.GetManifestReply.FromString(data)

    def list_versions(self, timeout_s: float) -> parameter_pb2.ListVersionsReply:
        """Returns all versions."""
        data = self._call(f"{PARAMETER}ListVersions", b"", timeout_s)
        return parameter_pb2.ListVersionsReply.FromString(data)

    def command(self, name: str, request: Any, timeout_s: float) -> admin_pb2.AdminReply:
        """Calls a method of AdminService, once: it may have been done though it failed."""
        data = self._call(f"{ADMIN}{name}", request.SerializeToString(), timeout_s, retry=False)
        return admin_pb2.AdminReply.FromString(data)

    def watch_versions(self) -> Iterator[parameter_pb2.ListVersionsReply]:
        """Yields all versions now and after each change, until the connection ends."""
        return self._stream(
            f"{PARAMETER}WatchVersions", b"", parameter_pb2.ListVersionsReply.FromString, None
        )

    def fetch_shard(
        self, version: str, file: str, offset: int, timeout_s: float | None = None
    ) -> Iterator[parameter_pb2.FetchShardReply]:
        """Yields the pieces of a file from an offset on; where it breaks off, ask again."""
        request = parameter_pb2.FetchShardRequest(version=version, file=file, offset=offset)
        return self._stream(
            f"{PARAMETER}FetchShard",
            request.SerializeToString(),
            parameter_pb2.FetchShardReply.FromString,
            timeout_s,
        )

    def close(self) -> None:
        """Closes the channels; calls under way fail."""
        for channel in self._channels:
            channel.close()

    def _call(self, path: str, request: bytes, timeout_s: float, *, retry: bool = True) -> bytes:
        deadline = time.monotonic() + timeout_s
        for attempt in itertools.count():
            left = deadline - time.monotonic()
            try:
                return self._next_call(path)(request, timeout=left, metadata=self._metadata)
            except grpc.RpcError as exc:
                wait = wait_s(attempt)
                can_wait = retry and deadline - time.monotonic() > wait
                if not can_wait or not can_retry(exc):
                    raise self._error(exc) from None
            except ValueError as exc:  # the channel was closed
                raise ConfigError(f"{self.target}: the client is closed", "make a new one") from exc
            time.sleep(wait)
        raise AssertionError

    def _next_call(self, path: str) -> Callable[..., bytes]:
        calls = self._calls.get(path)
        if calls is None:
            calls = [channel.unary_unary(path, None, None) for channel in self._channels]
            self._calls[path] = calls
        place: int | None = getattr(self._place, "number", None)
        if place is None:
            place = self._place.number = next(self._places) % len(self._channels)
        return calls[place]

    def _stream(
        self, path: str, request: bytes, parse: Callable[[bytes], Any], timeout_s: float | None
    ) -> Iterator[Any]:
        call = self._channels[0].unary_stream(path, None, None)(
            request, timeout=timeout_s, metadata=self._metadata
        )
        try:
            for data in call:
                yield parse(data)
        except grpc.RpcError as exc:
            raise self._error(exc) from None
        finally:
            call.cancel()

    def _error(self, error: grpc.RpcError) -> MuxtableError:
        return error_of(error, self.target)


def can_retry(error: grpc.RpcError) -> bool:
    """Whether a call that failed may do better at a second try.

    Not one that was refused for its size.
    """
    details = error.details() or ""
    is_size = "the limit is" in details or "larger than max" in details
    return error.code() in RETRIED and not is_size
