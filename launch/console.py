"""What a command prints, and where: results on stdout, everything else on stderr.

A person gets tables and sentences; with `--json` stdout holds one JSON document and nothing more.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# Output into a file or a pipe has no width of its own: wide enough that tables are not folded.
_PLAIN_WIDTH = 120


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would exit with 1 here; the command line ends as other programs do.
        raise BrokenPipeError


@cache
def _console(*, stderr: bool) -> Console:
    """One console a stream, so that log lines are printed above a running progress bar."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PLAIN_WIDTH
    return _Console(stderr=stderr, highlight=False, width=width, soft_wrap=False)


@dataclass(frozen=True, slots=True)
class Output:
    """The common options of every command, and how it talks."""

    json: bool = False
    quiet: bool = False
    debug: bool = False

    def result(self, document: Mapping[str, Any], render: Callable[[Console], None]) -> None:
        """Prints the outcome of a command: `document` as JSON, or what `render` draws of it."""
        try:
            if self.json:
                text = json.dumps(document, ensure_ascii=False, allow_nan=False, default=_plain)
                sys.stdout.write(text + "\n")
            elif not self.quiet:
                render(_console(stderr=False))
            sys.stdout.flush()
        except BrokenPipeError:
            # Without its number: typer would take it for its own and exit with 1.
            raise BrokenPipeError from None

    def note(self, text: str) -> None:
        """Says in passing what the command does or decides, on stderr."""
        if not self.quiet:
            _console(stderr=True).print(Text(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Warns, also when quiet."""
        _console(stderr=True).print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)

    def error(self, what: str, fix: str, exit_code: int) -> None:
        """Prints an error: its two halves on stderr and, with `--json`, as the document."""
        console = _console(stderr=True)
        console.print(Text.assemble(("error: ", "bold red"), what), soft_wrap=True)
        if fix:
            console.print(Text.assemble(("  fix: ", "bold green"), fix), soft_wrap=True)
        if self.json:
            document = {"error": {"what": what, "fix": fix, "exit_code": exit_code}}
            sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def stderr(self) -> Console:
        """Returns the console of progress bars."""
        return _console(stderr=True)


def _plain(value: Any) -> Any:
    """Turns what json cannot write (numpy scalars, paths) into plain Python."""
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "__fspath__"):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a printed table; numbers stand right."""

    title: str
    right: bool = True
    style: str = ""


def table(title: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Group:
    """Returns a table that stays readable in a narrow terminal and in a plain file."""
    grid = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for column in columns:
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            style=column.style,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*[escape(str(cell)) for cell in row])
    return _titled(title, grid)


def facts(title: str, rows: Iterable[tuple[str, Any]]) -> Group:
    """Returns a two-column list of names and values."""
    grid = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=False,
    )
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(escape(name), escape(str(value)))
    return _titled(title, grid)


def _titled(title: str, grid: Table) -> Group:
    # A table's own title would be folded to the width of its columns.
    return Group(Text(title, style="bold"), Padding(grid, (0, 0, 1, 2), expand=False))


def size_text(num_bytes: float) -> str:
    """Returns bytes as people read them: "64.0 MiB"."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        num_bytes /= 1024
        if num_bytes < 1023.95 or unit == "GiB":
            return f"{num_bytes:.1f} {unit}"
    raise AssertionError


def share_text(share: float) -> str:
    """Returns a share as a percentage with as many digits as it needs."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"
