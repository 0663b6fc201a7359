"""What versions cost: bytes of deltas, and the time to export, open, prove and apply them.

    python -m benchmarks.snapshot [--quick] [--json] [--threads N]

The table and the training of `benchmarks.checkpoint`: 8 million rows of 16 floats, batches of 4096
samples and 26 features whose ids follow Zipf's law. Versions are stored by int8, 24 bytes a row.

bytes_delta_N   bytes of what a version changed over N steps, over those of the whole version
changed_N       share of the rows whose bytes are others than before
export          time of an export, over the time of writing the same bytes by one plain write each
                with its sha256 and a sync
open            time to open a version, verified, over the sha256 of its files on as many threads
delta, apply, prove     time of each for the last delta, over an export in full
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks import harness
from benchmarks.checkpoint import FEATURES, WIDTH, Training
from features.routing import Layout, Placement, Region
from features.schema import Feature
from storage.codecs import codec_named
from storage.snapshot import open_snapshot
from storage.snapshot_apply import apply_delta, prove_delta, write_delta
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot
from storage.versions import version_name

STEPS = (10, 100, 1000)
_OPEN_THREADS = 2
_Result = TypeVar("_Result")


def main() -> None:
    """Measures and prints."""
    options = harness.start("snapshot", __doc__)
    training = Training(100_000 if options.quick else 8_000_000, options.threads)
    root = Path(tempfile.mkdtemp(prefix="muxtable-snapshot-"))
    try:
        ratios, rows = measure(training, root, STEPS[:1] if options.quick else STEPS)
    finally:
        shutil.rmtree(root)
    harness.finish(options, ratios, rows)


def measure(
    training: Training, root: Path, steps: tuple[int, ...]
) -> tuple[dict[str, float], list[harness.Row]]:
    """Returns the figures and the rows they come from."""
    codec = codec_named("int8")(WIDTH)
    layout = _layout(training.engine.rows)
    table = training.engine.state()["weight"]

    def source() -> Source:
        step = training.engine.step
        lineage = Lineage(run="benchmark", job="0" * 64, step=step, checkpoint="0" * 64)
        return Source(
            layout=layout,
            codec=codec,
            read_rows=lambda first, end: np.ascontiguousarray(table[first:end]),
            lineage=lineage,
        )

    threads = training.engine.num_threads
    harness.progress("export")
    full_s, base = _timed(lambda: write_snapshot(root, version_name(0), source(), threads=threads))
    ratios = {"export": full_s / _plain_write(base.path, root / "plain")}
    open_s, snapshot = _timed(lambda: open_snapshot(base.path, threads=_OPEN_THREADS))
    ratios["open"] = open_s / _hash(base.path)
    rows: list[harness.Row] = []
    done = 0
    with snapshot:
        for count in steps:
            harness.progress(f"{count} steps")
            for _ in range(count - done):
                training.step()
            done = count
            name = version_name(count)
            delta_s, delta = _timed(lambda n=name: write_delta(root, n, source(), snapshot))
            share = delta.size_bytes / delta.full_bytes
            changed = delta.changed / delta.rows
            ratios |= {f"bytes_delta_{count}": share, f"changed_{count}": changed}
            rows.append({"steps": count, "changed": changed, "bytes": share})
    prove_s, _ = _timed(lambda: prove_delta(delta.path))
    apply_s, applied = _timed(lambda: apply_delta(delta.path))
    assert applied.digest == delta.digest
    ratios |= {
        "delta": delta_s / full_s,
        "apply": apply_s / full_s,
        "prove": prove_s / full_s,
    }
    return ratios, rows


def _layout(rows: int) -> Layout:
    features = [
        Feature(
            name=f"f{i}", kind="categorical", columns=(f"f{i}",), num_lookups=1, salt_name=f"f{i}"
        )
        for i in range(FEATURES)
    ]
    return Layout.assemble(
        width=WIDTH,
        hash_seed=0,
        regions=[Region(name="shared", kind="shared", base=0, rows=rows, width=WIDTH)],
        placements=[Placement(feature=f, region="shared", key_class="int") for f in features],
        vocabularies={},
    )


def _timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def _plain_write(source: Path, target: Path) -> float:
    """Returns the seconds to hash, write and sync the bytes of a folder, which lie in memory."""
    contents = [file.read_bytes() for file in source.iterdir()]
    begin = time.perf_counter()
    target.mkdir()
    for number, data in enumerate(contents):
        hashlib.sha256(data)
        descriptor = os.open(target / str(number), os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - begin


def _hash(folder: Path) -> float:
    """Returns the seconds that the sha256 of the files of a folder takes."""
    files = sorted(folder.iterdir(), key=lambda file: -file.stat().st_size)
    begin = time.perf_counter()
    with ThreadPoolExecutor(_OPEN_THREADS) as pool:
        list(pool.map(_hash_file, files))
    return time.perf_counter() - begin


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


if __name__ == "__main__":
    main()
