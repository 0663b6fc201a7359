"""The polite way to end a run: the first SIGTERM or Ctrl-C asks, the second ends the process."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818 nothing went wrong
    """Work that ended early because it was asked to; what it would have given does not exist."""


class StopSignals:
    """While entered, remembers the first of SIGTERM and SIGINT; calling it returns that, or None.

    A second signal falls back to the default, which ends the process at once. Outside the main
    thread, where Python takes no handlers, it never reports anything.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __call__(self) -> int | None:
        """Returns the signal that came, if one did."""
        return self._received

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is None:
            self._received = number
            return
        # The default of SIGTERM and of SIGINT is to die of it, whatever Python made of the latter.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
