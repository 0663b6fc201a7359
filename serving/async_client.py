"""The client for asyncio: the same lookups, awaited.

async with muxtable.AsyncClient("10.0.0.7:50051") as client:
    found = await client.lookup({"user_id": ids})
"""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from features.errors import MuxtableError, NotFoundError, StateError
from native import memory
from serving.client import MOST_BEGINNINGS
from serving.session import Ask, Embeddings, Model, OnWire, Session
from serving.status import error_of
from serving.stubs import parameter_pb2 as pb
from serving.wire import (
    MAX_REPLY_BYTES,
    PARAMETER,
    can_retry,
    channel_credentials,
    channel_options,
    metadata_of,
    wait_s,
)


class AsyncClient:
    """A parameter service at `target` (host:port), for one event loop; see `Client`."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 5.0,
        wire: OnWire = "codec",
        token: str | None = None,
        tls: bool = False,
        ca: bytes | None = None,
        cert: bytes | None = None,
        key: bytes | None = None,
        channels: int = 2,
        dedup: bool = True,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        memory.tune_allocator()
        self._target = target
        self._timeout_s = timeout_s
        self._session = Session(wire, dedup, max_reply_bytes)
        self._metadata = metadata_of(token)
        self._channels = []
        for number in range(channels):
            options = channel_options(number, max_reply_bytes)
            if tls or ca is not None or cert is not None:
                credentials = channel_credentials(ca, cert, key)
                self._channels.append(grpc.aio.secure_channel(target, credentials, options))
            else:
                self._channels.append(grpc.aio.insecure_channel(target, options))
        self._turns = itertools.cycle(self._channels)
        self._last = b""

    async def lookup(
        self,
        values: Mapping[str, Any],
        features: Sequence[str] | None = None,
        *,
        version: str = "",
        pooled: bool = True,
    ) -> Embeddings:
        """Returns the vectors of columns' values, by feature; see `Client.lookup`."""
        for beginning in range(MOST_BEGINNINGS):
            model = await self._model(version)
            ask = self._session.ask(model, values, features, pooled)
            try:
                return await self._answered(ask, version)
            except (NotFoundError, StateError):
                if len(ask.bounds) == 1 or beginning + 1 == MOST_BEGINNINGS:
                    raise
        raise AssertionError

    async def manifest(self, version: str = "") -> pb.GetManifestReply:
        """Returns what a version holds, and what the service takes."""
        request = pb.GetManifestRequest(choice=self._session.choice(version))
        data = await self._call("GetManifest", request.SerializeToString())
        return pb.GetManifestReply.FromString(data)

    async def versions(self) -> pb.ListVersionsReply:
        """Returns the versions of the service with their states."""
        return pb.ListVersionsReply.FromString(await self._call("ListVersions", b""))

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _model(self, version: str) -> Model:
        known = self._session.known(self._last) if version == "" else None
        return known or self._session.learn(await self.manifest(version))

    async def _answered(self, ask: Ask, version: str) -> Embeddings:
        session = self._session

        async def send(part: int, name: str) -> tuple[pb.LookupReply, memoryview]:
            return session.heard(await self._call("Lookup", session.request(ask, part, name)))

        first = await send(0, version)
        stamp = first[0].stamp
        rest = await asyncio.gather(
            *(send(part, stamp.version) for part in range(1, len(ask.bounds)))
        )
        model = session.known(stamp.digest) or session.learn(await self.manifest(stamp.version))
        if version == "":
            self._last = stamp.digest
        return session.embeddings(model, ask, [first, *rest])

    async def _call(self, method: str, request: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        for attempt in itertools.count():
            call = next(self._turns).unary_unary(f"{PARAMETER}{method}", None, None)
            try:
                left = deadline - time.monotonic()
                return await call(request, timeout=left, metadata=self._metadata)
            except grpc.aio.AioRpcError as exc:
                wait = wait_s(attempt)
                if not can_retry(exc) or deadline - time.monotonic() <= wait:
                    raise self._error(exc) from None
            await asyncio.sleep(wait)
        raise AssertionError

    def _error(self, error: grpc.RpcError) -> MuxtableError:
        return error_of(error, self._target)
