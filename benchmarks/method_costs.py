"""What each method costs beside unified: time to train and to look up, bytes on disk.

    python -m benchmarks.method_costs [--quick] [--json] [--threads N]

The features of MovieLens-1M and its net, batches of 1024 made-up ids, embeddings of 30 columns in
794 kB, multiplexed; unified with one lookup of 30 floats (`hash`) to ten of 3. Every table is
trained for an epoch by the real loop, checkpointed and written as a version of float32 rows.

train_*    a whole step (rows, tower, optimizers) against unified with two lookups
lookup_*   ids to vectors without gradients, against it
served_*   ids to vectors out of the version, feature by feature, against it
bytes_*    parameters in the checkpoint against those charged; in the version the same

Times are those of the processor: one thread is asked for, and what else runs here does not count.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import harness
from benchmarks.representations import COLLISIONLESS, METHODS, Method
from benchmarks.step import ML1M_SIZES, many
from features.batches import KeyBatch, KeyColumn
from launch.settings import load_job
from native import memory
from sharding.assemble import combine
from storage.bundle import open_bundle
from storage.codecs.registry import codec_named
from storage.snapshot import ROWS, Snapshot
from trainer import saving
from trainer.dense_optimizer import DenseOptimizer
from trainer.export import Export
from trainer.losses import binary_cross_entropy
from trainer.model import Model, build_model
from trainer.train import train

BATCH = 1024
BASE = "unified, 2 lookups"
_LOOKUPS = (3, 5, 6, 10)  # `hash` is unified with one
_JOB = """
[data]
train = "train.parquet"
label = "label"
[features]
categorical = [{names}]
[table]
budget = "794 kB"
exact_below = 5
[tower]
kind = "dcnv2"
cross_layers = 1
hidden = [192]
[train]
batch_size = {batch}
epochs = 1
[run]
tensorboard = false
"""


@dataclass(frozen=True, slots=True)
class Data:
    """Made-up rows, a few ids hot and most rare, every id at least once."""

    ids: np.ndarray  # int64[F, N]
    labels: np.ndarray  # float32[N]

    @classmethod
    def draw(cls, num_rows: int) -> "Data":
        """Returns rows of the features of ML-1M."""
        random = np.random.default_rng(0)
        sizes = np.array(ML1M_SIZES)[:, None]
        ids = (random.random((len(sizes), num_rows)) ** 3 * sizes).astype(np.int64)
        every = np.arange(sizes.max())
        ids[:, : len(every)] = every % sizes
        return cls(ids, (random.random(num_rows) < 0.3).astype(np.float32))

    def write(self, folder: Path) -> None:
        """Writes them and a job file that trains on them."""
        names = [f"f{i}" for i in range(len(self.ids))]
        columns = dict(zip(names, self.ids, strict=True)) | {"label": self.labels}
        pq.write_table(pa.table(columns), folder / "train.parquet")
        listed = ", ".join(f'"{name}"' for name in names)
        (folder / "job.toml").write_text(_JOB.format(names=listed, batch=BATCH))

    def batch(self, first: int) -> KeyBatch:
        """Returns the batch that starts at a row."""
        keys = np.ascontiguousarray(self.ids[:, first : first + BATCH].view(np.uint64))
        columns = {f"f{i}": KeyColumn(keys[i], None) for i in range(len(keys))}
        return KeyBatch(BATCH, columns, keys, None, np.empty((BATCH, 0), "f4"))


class Contender:
    """One trained table, in a model that goes on training and in a version that serves."""

    def __init__(self, method: Method, data: Data, folder: Path, threads: int) -> None:
        self._data = data
        self._first = 0
        overrides = [f"{key}={value}" for key, value in method.settings.items()]
        job = load_job(folder / "job.toml", [*overrides, f"train.threads={threads}"])
        run = train(job, folder / method.name.replace(" ", "-"), folder).run
        self.charged = int((run.result() or {})["table"]["parameter_bytes"])
        with saving.open_checkpoint(run.checkpoints, "last") as checkpoint:
            self.checkpointed = sum(
                tensor.num_rows * tensor.row_bytes
                for tensor in checkpoint.manifest.tensors
                if tensor.name == "table.weight"
            )
            self._model: Model = build_model(
                saving.layout_in(checkpoint),
                0,
                job.table,
                job.tower,
                seed=0,
                threads=threads,
                device=torch.device("cpu"),
            )
        self._optimizer = DenseOptimizer(self._model.tower, job.train)
        with Export(run) as export:
            codec = export.codec(codec_named("float32"))
            written = export.write(run.path / "versions", "v-0000000001", codec)
        bundle = open_bundle(written.path)
        rows = bundle.entry(ROWS)
        self.written = rows.num_rows * rows.row_bytes
        self._snapshot = Snapshot(bundle, written.path)
        self._threads = threads

    def step(self) -> None:
        """Takes a training step."""
        first = self._next()
        batch = self._data.batch(first)
        logits = self._model.logits(self._model.route(batch), batch.dense)
        labels = torch.from_numpy(self._data.labels[first : first + BATCH])
        self._optimizer.zero_grad()
        loss: Any = binary_cross_entropy(logits, labels)
        loss.backward()
        self._optimizer.step()

    def lookup(self) -> None:
        """Looks a batch up as training does."""
        with torch.inference_mode():
            rows = self._model.route(self._data.batch(self._next()))
            vectors = self._model.engine.lookup(rows)
            if rows.parts:
                combine(vectors, rows.parts)

    def served(self) -> None:
        """Looks a batch up as a service does, without the wire."""
        first = self._next()
        for i in range(len(self._data.ids)):
            keys = self._data.ids[i, first : first + BATCH].view(np.uint64)
            self._snapshot.lookup(f"f{i}", KeyColumn(keys, None), self._threads)

    def _next(self) -> int:
        first = self._first
        self._first = (first + BATCH) % (len(self._data.labels) - BATCH)
        return first


def methods() -> dict[str, Method]:
    """Returns what is timed, unified with two lookups among it."""
    found = {method.name: method for method in (*METHODS, COLLISIONLESS)}
    # At these bytes a row for each value is 15 floats.
    found[COLLISIONLESS.name] = Method(
        COLLISIONLESS.name, {**COLLISIONLESS.settings, "table.width": 15}
    )
    for count in _LOOKUPS:
        name = f"unified, {count} lookups"
        found[name] = Method(name, {"table.width": 30 // count, "table.lookups": count})
    return found


def main() -> None:
    """Times all methods in turn and prints the ratios."""
    options = harness.start("method_costs", __doc__, threads=1)
    memory.tune_allocator()
    torch.set_num_threads(options.threads)
    data = Data.draw(BATCH * (10 if options.quick else 40))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write(folder)
        contenders = {}
        for name, method in methods().items():
            harness.progress(name)
            contenders[name] = Contender(method, data, folder, options.threads)
        times = {
            what: _compare(contenders, what, options.quick) for what in ("step", "lookup", "served")
        }
    rows: list[dict[str, Any]] = []
    for name, one in contenders.items():
        row: dict[str, Any] = {"method": name, "bytes_charged": one.charged}
        row |= {"bytes_checkpoint": one.checkpointed, "bytes_version": one.written}
        for what, seconds in times.items():
            row[f"{what}_ms"] = seconds[name] * 1000
            row[f"{what}_vs_unified"] = seconds[name] / seconds[BASE]
        rows.append(row)
    ratios = {}
    for row in rows:
        word = row["method"].replace(", ", "_").replace(" ", "_")
        ratios[f"train_{word}"] = row["step_vs_unified"]
        ratios[f"lookup_{word}"] = row["lookup_vs_unified"]
        ratios[f"served_{word}"] = row["served_vs_unified"]
        ratios[f"bytes_{word}"] = row["bytes_checkpoint"] / row["bytes_charged"]
    harness.finish(options, ratios, rows)


def _compare(contenders: dict[str, Contender], what: str, quick: bool) -> dict[str, float]:
    count = 2 if quick else 8
    calls: dict[str, Callable[[], object]] = {
        name: partial(many, getattr(one, what), count) for name, one in contenders.items()
    }
    times = harness.compare(calls, repeats=3 if quick else 15, clock=time.process_time)
    return {name: seconds / count for name, seconds in times.items()}


if __name__ == "__main__":
    main()
