"""Rows a second of the stream of batches against pyarrow reading the same columns alone.

    python -m benchmarks.input [--quick] [--json] [--threads N]

26 columns of ids and 13 numbers, as in Criteo's logs, row groups of 65,536 rows, Zipf-like ids; ids
once as int64 and once as strings of 8 hexadecimal digits. Both sides read the same file in turns in
one process. `pyarrow` reads row groups with one thread and throws them away; `stream` gives
permuted batches of keys, transformed numbers and checked labels, reading with `--threads` threads.
`cpu` is the processor time of the stream against pyarrow's: what it costs on a busy machine.

memory_growth: peak memory of a process that streams 20 files over that of one that streams a single
file of a million rows (the files are one and the same, linked: their content does not matter here).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from features.parquet import open_dataset
from features.profile import Profile, build_profile
from features.schema import FeatureSet
from features.settings import DataSettings, FeaturesSettings, TableSettings
from native.memory import tune_allocator
from trainer.stream import BatchStream

NUM_IDS, NUM_NUMBERS = 26, 13
BATCH_SIZE = 4096
GROUP_ROWS = 65_536
IDS = [f"id{i}" for i in range(NUM_IDS)]
NUMBERS = [f"number{i}" for i in range(NUM_NUMBERS)]
TABLE = TableSettings(budget="64 MiB")
# Set in the process that streams one file and reports its peak memory.
_PEAK_OF = "MUXTABLE_BENCHMARK_PEAK_OF"


def write(path: Path, rows: int, kind: str) -> None:
    """Writes a file of that many rows, a row group at a time."""
    random = np.random.default_rng(0)
    cardinalities = np.geomspace(10, 10_000_000, NUM_IDS).astype(np.int64)
    writer = None
    for first in range(0, rows, GROUP_ROWS):
        size = min(GROUP_ROWS, rows - first)
        columns: dict[str, Any] = {"label": (random.random(size) < 0.25).astype(np.int8)}
        for name, cardinality in zip(IDS, cardinalities, strict=True):
            # Zipf's law with exponent 1, by inversion; multiplied so that ids lie apart.
            ranks = np.exp(random.random(size) * np.log(cardinality)).astype(np.int64)
            ids = ranks * 2_654_435_761 % 2**32
            columns[name] = ids if kind == "ints" else _hex(ids)
        for name in NUMBERS:
            columns[name] = random.lognormal(size=size).astype(np.float32)
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=GROUP_ROWS)
    if writer is not None:
        writer.close()


def _hex(ids: np.ndarray) -> pa.Array:
    """The ids as strings of 8 hexadecimal digits, made without a loop over them."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    shifts = np.arange(28, -1, -4)
    text = digits[(ids[:, None] >> shifts) & 15].astype(np.uint8)
    offsets = np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(text))


class Case:
    """The files of a folder and the two ways of reading them."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.paths = sorted(folder.glob("*.parquet"))
        self.settings = DataSettings(train="*.parquet", label="label", read_threads=threads)
        self.features = FeatureSet.build(
            self.settings, FeaturesSettings(categorical=IDS, dense=NUMBERS), {}, TABLE
        )
        self.dataset = open_dataset("*.parquet", folder)
        self.profile = _profile(self.paths[0], self.features)

    def stream(self) -> int:
        """Streams one epoch; returns its rows."""
        with BatchStream(
            self.dataset,
            self.features,
            self.profile,
            self.settings,
            batch_size=BATCH_SIZE,
            seed=0,
            epoch=0,
        ) as stream:
            return sum(batch.num_rows for batch in stream)

    def pyarrow(self) -> int:
        """Reads all row groups with one thread; returns their rows."""
        rows = 0
        for path in self.paths:
            file = pq.ParquetFile(path, pre_buffer=False)
            for group in range(file.num_row_groups):
                rows += file.read_row_group(group, use_threads=False).num_rows
        return rows


def _profile(path: Path, features: FeatureSet) -> Profile:
    """The profile of the first row group: the stream costs the same whatever it says."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pq.ParquetFile(path).read_row_group(0), Path(folder) / "head.parquet")
        return build_profile(open_dataset("head.parquet", Path(folder)), features, TABLE)


def measure(kind: str, folder: Path, rows: int, repeats: int, threads: int) -> dict[str, Any]:
    """Returns rows a second of both ways, and their ratio."""
    harness.progress(f"writing {rows:,} rows with ids as {kind}")
    (folder / kind).mkdir()
    write(folder / kind / "clicks.parquet", rows, kind)
    case = Case(folder / kind, threads)
    cpu: dict[str, list[float]] = {"pyarrow": [], "stream": []}
    contenders = {
        name: _with_cpu(way, cpu[name])
        for name, way in (("pyarrow", case.pyarrow), ("stream", case.stream))
    }
    harness.progress(f"reading ids as {kind}")
    seconds = harness.compare(contenders, repeats, warmup=1)
    return {
        "ids": kind,
        "rows": rows,
        "read_threads": threads,
        "pyarrow_rows_per_s": rows / seconds["pyarrow"],
        "stream_rows_per_s": rows / seconds["stream"],
        "vs_pyarrow": seconds["pyarrow"] / seconds["stream"],
        "cpu": float(np.median(cpu["stream"]) / np.median(cpu["pyarrow"])),
    }


def _with_cpu(way: Callable[[], int], seconds: list[float]) -> Callable[[], int]:
    def timed() -> int:
        begin = time.process_time()
        rows = way()
        seconds.append(time.process_time() - begin)
        return rows

    return timed


def peak_memory(folder: Path, files: int, rows: int, threads: int) -> int:
    """Returns the peak resident bytes of a fresh process that streams that many files."""
    place = folder / f"{files} files"
    place.mkdir()
    first = folder / "million.parquet"
    if not first.exists():
        write(first, rows, "ints")
    for number in range(files):
        (place / f"{number:02}.parquet").hardlink_to(first)
    harness.progress(f"peak memory of {files} file(s) of {rows:,} rows")
    command = [sys.executable, "-m", "benchmarks.input", "--threads", str(threads)]
    environment = {**os.environ, _PEAK_OF: str(place)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout)["peak"])


def main() -> None:
    """Runs the benchmark."""
    options = harness.start("input", __doc__)
    tune_allocator()
    if _PEAK_OF in os.environ:
        Case(Path(os.environ[_PEAK_OF]), options.threads).stream()
        (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        peak = int(line) * 1024
        print(json.dumps({"peak": peak}))
        return
    rows, repeats, files = (262_144, 3, 3) if options.quick else (2_097_152, 7, 20)
    file_rows = 16 * GROUP_ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = [
            measure(kind, folder, rows, repeats, options.threads) for kind in ("ints", "strings")
        ]
        peaks = [peak_memory(folder, n, file_rows, options.threads) for n in (1, files)]
    for n, peak in zip((1, files), peaks, strict=True):
        table.append({"ids": "ints", "rows": n * file_rows, "peak_mib": peak / 2**20})
    harness.finish(
        options,
        ratios={
            "ints_vs_pyarrow": table[0]["vs_pyarrow"],
            "strings_vs_pyarrow": table[1]["vs_pyarrow"],
            "memory_growth": peaks[1] / peaks[0],
        },
        rows=table,
    )


if __name__ == "__main__":
    main()
