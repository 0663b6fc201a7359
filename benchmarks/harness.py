"""What every benchmark shares: its arguments, a fair clock, and the shape of its result.

A benchmark is a module run as `python -m benchmarks.NAME [--quick] [--json] [--threads N]`:

    def main() -> None:
        options = harness.start("NAME", __doc__)
        times = harness.compare({"ours": step, "theirs": other_step}, repeats=11)
        row = {"batch": 2048, "speedup": times["theirs"] / times["ours"]}
        harness.finish(options, ratios={"ours_vs_theirs": row["speedup"]}, rows=[row])

`start` comes first: it may start the process anew with the OpenMP settings that make times
comparable. `finish` prints {name, commit, machine, ratios, rows}: JSON for a machine, tables for a
person. Times differ between machines and ratios of one run hardly do, so figures are ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent

Row = Mapping[str, Any]

# With the default policy waiting threads spin, and any other process on the machine then turns
# milliseconds into whole time slices of the scheduler.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True)
class Options:
    """How this run of a benchmark was asked for."""

    name: str
    quick: bool  # small sizes, for a smoke test: its figures mean nothing
    json: bool
    threads: int


def start(
    name: str, description: str | None, arguments: Sequence[str] | None = None, threads: int = 2
) -> Options:
    """Reads the command line, `threads` being the default of --threads.

    Starts the process anew when OpenMP, which reads its settings once when it is loaded, was not
    told to wait passively. With `arguments` (a test) it never does.
    """
    if arguments is None and any(key not in os.environ for key in _ENVIRONMENT):
        command = [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]
        os.execve(sys.executable, command, {**_ENVIRONMENT, **os.environ})  # noqa: S606
    summary = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=summary)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, default=threads, help="threads of our kernels")
    parsed = parser.parse_args(arguments)
    if parsed.threads < 1:
        parser.error(f"--threads is {parsed.threads}, expected 1 or more")
    return Options(name, parsed.quick, parsed.json, parsed.threads)


def compare(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Returns the median seconds of each contender by `clock`.

    They take turns, so that noise hits all alike, and every other round in reverse, so that none
    always finds the caches as the same other one left them.
    """
    for _ in range(warmup):
        for contender in contenders.values():
            contender()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        order = list(contenders.items())
        for name, contender in order if turn % 2 == 0 else order[::-1]:
            begin = clock()
            contender()
            times[name].append(clock() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def progress(message: str) -> None:
    """Says on standard error what is being measured: standard output is for the result."""
    print(message, file=sys.stderr, flush=True)


def finish(options: Options, ratios: Mapping[str, float], rows: Sequence[Row]) -> None:
    """Prints the result: the figures by name, and the rows they were taken from."""
    result: dict[str, Any] = {
        "name": options.name,
        "commit": commit(),
        "machine": machine(),
        "ratios": dict(ratios),
        "rows": [dict(row) for row in rows],
    }
    if options.quick:
        result["quick"] = True
    if options.json:
        print(json.dumps(result, allow_nan=False))
        return
    # A file or a pipe has no width: wide rows stay whole there.
    console = Console(width=None if sys.stdout.isatty() else 250)
    described = ", ".join(f"{key} {value}" for key, value in machine().items())
    console.print(f"[bold]{options.name}[/bold] at {result['commit']} on {described}")
    if rows:
        console.print(_table(rows))
    console.print(_table([{"figure": key, "value": value} for key, value in ratios.items()]))
    if options.quick:
        console.print("--quick: sizes too small for figures worth quoting")


def commit() -> str:
    """Returns the commit of the working tree, marked when tracked files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # an installed copy, or no git here
    return f"{head}-changed" if changed else head


def machine() -> dict[str, str | int]:
    """Returns what a reader needs to know of this machine, and nothing that names it."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
    }


def _cpu_model() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    # A virtual machine may hide the model: family and model number still tell the generation.
    name = fields.get("model name", platform.processor() or platform.machine())
    if "cpu family" in fields:
        name = f"{name} (family {fields['cpu family']}, model {fields['model']})"
    return name


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _table(rows: Sequence[Row]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_text(row.get(column, "")) for column in columns))
    return table


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
