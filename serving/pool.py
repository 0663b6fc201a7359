"""Threads for short calls: gRPC's executor without what gRPC does not use.

A `ThreadPoolExecutor` makes a future with a condition for every call, counts idle threads and
wakes who might wait for a result: some percent of what a small call costs. gRPC submits a function
that catches everything, and adds one callback.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)

Callback = Callable[[Any], object]


class Call:
    """What `CallPool.submit` returns: a future as far as a server of gRPC looks."""

    __slots__ = ("_arguments", "_callbacks", "_is_done", "_run")

    def __init__(self, run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._run = run
        self._arguments = arguments
        self._callbacks: list[Callback] = []
        self._is_done = False

    def add_done_callback(self, callback: Callback) -> None:
        """Calls `callback` with this once it has ended, at once if it has."""
        self._callbacks.append(callback)
        if self._is_done:
            self._tell()

    def run(self) -> None:
        """Runs it in this thread."""
        try:
            self._run(*self._arguments)
        except BaseException:  # a thread of the pool must live on
            logger.exception("a call failed outside of its handler")
        finally:
            # gRPC's objects end here, not when this thread gets its next call.
            del self._run, self._arguments
            self._is_done = True
            self._tell()

    def _tell(self) -> None:
        # Two threads may come here at once; each callback is popped by one of them.
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            callback(self)


class CallPool(ThreadPoolExecutor):
    """Threads that run calls in turn; gRPC asks for this class, of which nothing else is used."""

    def __init__(self, num_threads: int, name: str) -> None:
        super().__init__(num_threads)
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._num_threads = num_threads
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs a function in one of the threads; returns a `Call`."""
        call = Call(partial(fn, **kwargs) if kwargs else fn, args)
        self._calls.put(call)
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets the threads end after the calls that were submitted; waits for none of them."""
        del wait, cancel_futures
        for _ in range(self._num_threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call
