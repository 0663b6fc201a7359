"""What checkpoints cost: bytes of deltas, time that training stands still, and what is left of it.

    python -m benchmarks.checkpoint [--quick] [--json] [--threads N]

A table of 8 million rows of 16 floats with row-wise Adagrad (544 MB), trained with batches of 4096
samples and 26 features whose ids follow Zipf's law (exponent 1.05, a million values a feature).

bytes_delta_N      bytes of a save N steps after the whole checkpoint, over those of the whole: a
                   delta, as long as it has at most half of the bytes
touched_N          share of the rows that those steps moved
stall_whole        seconds that training waits for an asynchronous whole save, over those of a
                   synchronous one; stall_delta: of an asynchronous delta after 100 steps, over the
                   same. Medians; the two take turns. The copy fits into the budget.
minute_whole       share of a minute lost by one asynchronous whole save in it: the time that steps
                   take with a save under way, less the same steps without, over 60 s
marking            time of a step with its rows noted for deltas, over one without
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from features.routing import RowBatch
from features.settings import TableSettings
from native.memory import tune_allocator
from sharding.table import TableEngine, create_engine
from storage.parts import Sharded
from trainer.checkpoint import CheckpointStore, Saved
from trainer.deltas import Deltas, follow

WIDTH, FEATURES, SAMPLES = 16, 26, 4096
EXPONENT, VALUES = 1.05, 1_000_000
STEPS = (1, 10, 100, 1000)


class Training:
    """A table and batches without end."""

    def __init__(self, rows: int, threads: int) -> None:
        settings = TableSettings(rows=rows, width=WIDTH)
        self.engine: TableEngine = create_engine("fused", rows, WIDTH, settings, 0, threads)
        self._rng = np.random.default_rng(0)
        self._columns = np.arange(FEATURES, dtype=np.int64) * WIDTH
        self._gradient = torch.full((SAMPLES, FEATURES * WIDTH), 1e-3)
        self._ready = [self._batch() for _ in range(8)]

    def step(self, fresh: bool = True) -> None:
        """Takes one optimizer step, for a batch of its own or one of a few."""
        batch = self._batch() if fresh else self._ready[self.engine.step % len(self._ready)]
        self.engine.apply_gradient(batch, self._gradient)

    def sharded(self) -> dict[str, Sharded]:
        """Returns what a checkpoint holds."""
        return {
            f"table.{name}": Sharded.whole(array) for name, array in self.engine.state().items()
        }

    def _batch(self) -> RowBatch:
        # Zipf's law by inversion; each feature hashes its values over the whole table.
        power = 1 - EXPONENT
        uniform = self._rng.random((FEATURES, SAMPLES))
        values = ((VALUES**power - 1) * uniform + 1) ** (1 / power)
        keys = (
            values.astype(np.uint64) * np.uint64(FEATURES)
            + np.arange(FEATURES, dtype=np.uint64)[:, None]
        )
        keys = (keys ^ (keys >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        rows = ((keys >> np.uint64(32)) * np.uint64(self.engine.rows)) >> np.uint64(32)
        rows = rows.astype(np.int64)
        return RowBatch(SAMPLES, rows, self._columns, (), FEATURES * WIDTH)


def main() -> None:
    """Measures and prints."""
    options = harness.start("checkpoint", __doc__)
    tune_allocator()  # as training does: copies then find memory that was used before
    rows = 100_000 if options.quick else 8_000_000
    training = Training(rows, options.threads)
    root = Path(tempfile.mkdtemp(prefix="muxtable-checkpoint-"))
    try:
        ratios, found = measure(training, root, options.quick)
    finally:
        shutil.rmtree(root)
    harness.finish(options, ratios, found)


def measure(
    training: Training, root: Path, quick: bool
) -> tuple[dict[str, float], list[Mapping[str, float]]]:
    """Returns the figures and the rows they come from."""
    steps = STEPS[:2] if quick else STEPS
    with CheckpointStore(root, 1, copy_budget=2**30) as store:
        ratios, found = measure_bytes(training, store, steps)
        harness.progress("stalls")
        ratios |= measure_stalls(training, store, 1 if quick else 5, 5 if quick else 100)
        harness.progress("a save a minute")
        ratios |= measure_minute(training, store, 1 if quick else 5, 0.1 if quick else 8.0)
    ratios["marking"] = measure_marking(training, 5 if quick else 101)
    return ratios, found


def save(training: Training, store: CheckpointStore) -> Saved:
    """Saves and waits until it is committed."""
    return store.save(training.engine.step, training.sharded(), {}, {}, {})


def measure_bytes(
    training: Training, store: CheckpointStore, steps: tuple[int, ...]
) -> tuple[dict[str, float], list[Mapping[str, float]]]:
    """Saves whole, then after each number of steps what changed since."""
    store.deltas = follow(training.engine, 1000, None)
    whole = save(training, store)
    ratios, found, done = {}, [], 0
    for count in steps:
        harness.progress(f"{count} steps")
        for _ in range(count - done):
            training.step()
        done = count
        touched = len(store.deltas.touched.rows()) / training.engine.rows
        delta = save(training, store)
        ratio = delta.size_bytes / whole.size_bytes
        ratios[f"touched_{count}"] = touched
        ratios[f"bytes_delta_{count}"] = ratio
        found.append({"steps": count, "touched": touched, "bytes": ratio})
    return ratios, found


def measure_stalls(
    training: Training, store: CheckpointStore, repeats: int, steps: int
) -> dict[str, float]:
    """Returns what training waits for saves in the background, over a save in the foreground."""
    waited: dict[str, list[float]] = {"whole": [], "delta": [], "sync": []}
    for _ in range(repeats + 1):
        store.deltas = None
        waited["sync"].append(save(training, store).total_s)
        store.deltas = follow(training.engine, 1000, None)
        waited["whole"].append(_stall(training, store))
        for _ in range(steps):
            training.step()
        waited["delta"].append(_stall(training, store))
    median = {name: statistics.median(seconds[1:]) for name, seconds in waited.items()}
    return {f"stall_{name}": median[name] / median["sync"] for name in ("whole", "delta")}


def _stall(training: Training, store: CheckpointStore) -> float:
    stall_s = store.save_async(training.engine.step, training.sharded(), {}, {}, {})
    store.wait()
    return stall_s


def measure_minute(
    training: Training, store: CheckpointStore, repeats: int, seconds: float
) -> dict[str, float]:
    """Returns the share of a minute that a whole save in the background costs."""
    store.deltas = None
    begin = time.perf_counter()
    count = 0
    while time.perf_counter() - begin < seconds:
        training.step(fresh=False)
        count += 1
    lost = []
    for turn in range(2 * repeats):
        begin = time.perf_counter()
        if turn % 2:
            store.save_async(training.engine.step, training.sharded(), {}, {}, {})
        for _ in range(count):
            training.step(fresh=False)
        lost.append(time.perf_counter() - begin)
        store.wait()
    pairs = zip(lost[1::2], lost[0::2], strict=True)
    return {"minute_whole": statistics.median(with_ - without for with_, without in pairs) / 60}


def measure_marking(training: Training, repeats: int) -> float:
    """Returns a step that notes its rows over one that does not."""
    deltas = Deltas(1, 0, training.engine.rows)

    def marked() -> None:
        training.engine.on_touched = deltas.touched.mark
        training.step(fresh=False)

    def plain() -> None:
        training.engine.on_touched = None
        training.step(fresh=False)

    times = harness.compare({"marked": marked, "plain": plain}, repeats)
    return times["marked"] / times["plain"]


if __name__ == "__main__":
    main()
