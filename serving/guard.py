"""What stands before every method: parsing, roles, errors to statuses, numbers and the access log.

A method without a role in `ROLES` cannot be served at all.
"""

import json
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import Message

from features.errors import LimitError, MuxtableError
from serving.access import Access, Role, UnknownCallerError
from serving.frame import parsed
from serving.metrics import Metrics
from serving.service import Expired
from serving.status import FIX_KEY, code_of, texts_of

logger = logging.getLogger(__name__)

ROLES = {
    "Lookup": Role.READ,
    "LookupRows": Role.READ,
    "GetManifest": Role.READ,
    "ListVersions": Role.READ,
    "WatchVersions": Role.READ,
    "FetchShard": Role.REPLICATE,
    "Load": Role.ADMIN,
    "Promote": Role.ADMIN,
    "Rollback": Role.ADMIN,
    "Pin": Role.ADMIN,
    "Unload": Role.ADMIN,
    "ServerReflectionInfo": Role.READ,
}

Unary = Callable[[Any, Any], bytes]
Stream = Callable[[Any, Any], Iterator[bytes]]


class AccessLog:
    """One JSON object a line for a share of the calls, on stderr; for all that failed."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._lock = threading.Lock()

    def write(
        self,
        method: str,
        code: str,
        role: Role,
        seconds: float,
        sizes: tuple[int, int],
        context: Any,
    ) -> None:
        """Writes a line, or not."""
        if not self._share or (code == "OK" and random.random() >= self._share):  # noqa: S311
            return
        line = json.dumps(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "method": method,
                "code": code,
                "role": role.name.lower(),
                "ms": round(seconds * 1e3, 3),
                "request_bytes": sizes[0],
                "reply_bytes": sizes[1],
                "peer": context.peer(),
            }
        )
        with self._lock:
            sys.stderr.write(line + "\n")


class Guard:
    """Makes handlers of gRPC out of methods."""

    def __init__(self, access: Access, metrics: Metrics | None, log: AccessLog) -> None:
        self._access = access
        self._metrics = metrics
        self._log = log

    def unary(
        self, method: str, request_type: type[Message] | None, act: Unary, pool: ThreadPoolExecutor
    ) -> grpc.RpcMethodHandler:
        """Returns the handler of a method with one reply; without a type it takes bytes."""
        needed = ROLES[method]

        def handle(data: bytes, context: Any) -> bytes:
            began = time.perf_counter()
            role, reply, code = Role.NONE, b"", "OK"
            failure: Exception | None = None
            try:
                role = self._access.check(context, needed)
                request = data if request_type is None else parsed(request_type, data)
                reply = act(request, context)
            except Exception as exc:  # noqa: BLE001  every error becomes a status
                failure = exc
                code = _code(exc).name
            self._ended(method, code, role, began, len(data), len(reply), context)
            if failure is not None:
                _abort(context, failure)
            return reply

        handle.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(
        self,
        method: str,
        request_type: type[Message],
        act: Stream,
        pool: ThreadPoolExecutor,
        places: threading.Semaphore,
    ) -> grpc.RpcMethodHandler:
        """Returns the handler of a method with many replies; `places` bound how many run."""
        handle = self._streaming(
            method, lambda data, context: act(parsed(request_type, data), context), places
        )
        handle.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.unary_stream_rpc_method_handler(handle)

    def both_ways(
        self, method: str, act: Stream, pool: ThreadPoolExecutor, places: threading.Semaphore
    ) -> grpc.RpcMethodHandler:
        """Returns the handler of a method with many requests and replies, both as bytes."""
        handle = self._streaming(method, act, places)
        handle.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(handle)

    def _streaming(self, method: str, act: Stream, places: threading.Semaphore) -> Stream:
        needed = ROLES[method]

        def handle(data: Any, context: Any) -> Iterator[bytes]:
            began = time.perf_counter()
            role, sent, code = Role.NONE, 0, "OK"
            failure: Exception | None = None
            is_counted = False
            try:
                role = self._access.check(context, needed)
                is_counted = places.acquire(blocking=False)
                if not is_counted:
                    raise LimitError(
                        "all streams of this process are taken (max_streams)", "try again later"
                    )
                for message in act(data, context):
                    sent += len(message)
                    yield message
            except GeneratorExit:
                code = "CANCELLED"
                raise
            except Exception as exc:  # noqa: BLE001  every error becomes a status
                failure = exc
                code = _code(exc).name
            finally:
                if is_counted:
                    places.release()
                size = len(data) if isinstance(data, bytes) else 0
                self._ended(method, code, role, began, size, sent, context)
            if failure is not None:
                _abort(context, failure)

        return handle

    def _ended(
        self, method: str, code: str, role: Role, began: float, size: int, sent: int, context: Any
    ) -> None:
        seconds = time.perf_counter() - began
        if self._metrics is not None:
            self._metrics.ended(method, code, seconds, sent)
        self._log.write(method, code, role, seconds, (size, sent), context)


def _code(error: Exception) -> grpc.StatusCode:
    if isinstance(error, Expired):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, UnknownCallerError):
        return grpc.StatusCode.UNAUTHENTICATED
    if isinstance(error, MuxtableError):
        return code_of(error)
    return grpc.StatusCode.INTERNAL


def _abort(context: Any, error: Exception) -> None:
    code = _code(error)
    what, fix = "the call failed", "look at the log of the service"
    if isinstance(error, Expired):
        what, fix = "the deadline passed before the call began", "give more time"
    elif isinstance(error, MuxtableError):
        what, fix = texts_of(error)
    else:
        logger.error("a call failed", exc_info=error)
    context.set_trailing_metadata(((FIX_KEY, fix.encode()),))
    context.abort(code, what)
