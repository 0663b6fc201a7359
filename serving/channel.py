"""Calls both ways between a supervisor and one of its processes, over a pair of sockets.

One JSON object a line:

    {"id": 7, "method": "load", "arguments": {...}}
    {"id": 7, "result": ...}   or   {"id": 7, "error": {"kind", "what", "fix"}}

An error keeps its class. When the other end is gone, whoever waits is told.
"""

import itertools
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from features import errors
from features.errors import MuxtableError, UnavailableError

logger = logging.getLogger(__name__)

Handlers = Mapping[str, Callable[..., Any]]


class Channel:
    """One end, once it is started; calls may come and go at a time, from any number of threads."""

    def __init__(
        self, end: socket.socket, handlers: Handlers, on_close: Callable[[], None] = lambda: None
    ) -> None:
        self._end = end
        self._handlers = handlers
        self._on_close = on_close
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        # A call may cause calls in the other direction before it is answered.
        self._pool = ThreadPoolExecutor(8, "channel")
        self._reader = threading.Thread(target=self._read, name="channel", daemon=True)

    def start(self) -> None:
        """Begins to answer calls, when all that they use is there."""
        self._reader.start()

    def call(self, method: str, timeout_s: float, **arguments: Any) -> Any:
        """Returns what the other end answers; raises its error, or UnavailableError."""
        number = next(self._numbers)
        future: Future[Any] = Future()
        with self._lock:
            if self._is_closed:
                raise _gone()
            self._waiting[number] = future
        self._send({"id": number, "method": method, "arguments": arguments})
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            raise UnavailableError(
                f"a process of the service did not answer {method} in {timeout_s:.0f} s",
                "look at its log",
            ) from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def close(self) -> None:
        """Ends; the other end is told."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end was faster
            logger.debug("the channel was closed already")

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                self._end.sendall(data)
            except OSError:
                raise _gone() from None

    def _read(self) -> None:
        with self._end.makefile("rb") as lines:
            try:
                for line in lines:
                    self._take(json.loads(line))
            except OSError as exc:
                logger.debug("the channel broke: %s", exc)
        with self._lock:
            self._is_closed = True
            waiting = list(self._waiting.values())
        for future in waiting:
            future.set_exception(_gone())
        self._pool.shutdown(wait=False)
        self._end.close()
        self._on_close()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "method" in message:
            self._pool.submit(self._answer, message)
            return
        with self._lock:
            future = self._waiting.get(message["id"])
        if future is None:
            return
        if "error" in message:
            future.set_exception(_error(message["error"]))
        else:
            future.set_result(message["result"])

    def _answer(self, message: Mapping[str, Any]) -> None:
        reply: dict[str, Any] = {"id": message["id"]}
        try:
            reply["result"] = self._handlers[message["method"]](**message["arguments"])
        except MuxtableError as exc:
            reply["error"] = {"kind": type(exc).__name__, "what": exc.what, "fix": exc.fix}
        except Exception as exc:
            logger.exception("%s failed", message["method"])
            reply["error"] = {"kind": "MuxtableError", "what": repr(exc), "fix": "see the log"}
        try:
            self._send(reply)
        except UnavailableError:
            logger.debug("nobody waits for %s any more", message["method"])


def _error(said: Mapping[str, str]) -> MuxtableError:
    kind = getattr(errors, said["kind"], MuxtableError)
    error: MuxtableError = kind(said["what"], said["fix"])
    return error


def _gone() -> UnavailableError:
    return UnavailableError("a process of the service has ended", "try again in a moment")
