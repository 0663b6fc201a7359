"""Logging of the command line: one line each, on stderr."""

from __future__ import annotations

import logging
import sys
import warnings

from launch.console import Output

PACKAGES = ("features", "storage", "sharding", "trainer", "serving", "launch", "native")


class _Lines(logging.Handler):
    """Prints records through the current stderr, above a running progress bar."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._output.warn(self.format(record))
        else:
            self._output.note(self.format(record))


def set_up_logging(output: Output) -> None:
    """Sends the records of our packages to stderr: warnings, and all of them with --debug."""
    logging.lastResort = None
    handler = _Lines(output)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logging.DEBUG if output.debug else logging.WARNING
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    if not output.debug and not sys.warnoptions:
        # Warnings of libraries are for their programmers; ours are log lines.
        warnings.simplefilter("ignore")
