"""A whole training step against the plain PyTorch loop a user would write.

Both sides slice batches out of arrays in memory and do forward, loss, backward and optimizer. Ours
hashes raw ids into one table trained by fused row-wise Adagrad, with the tower under torch's Adam;
theirs has an nn.Embedding for each feature and one torch.optim.Adam over everything. Towers, widths
and parameters of the tables are equal. Ids are made up, a few hot and most rare.

    vs_sliced_loop        the sizes of MovieLens-1M (6 features, DCN-V2, 1.6 MB), batch 128 and 4096
    vs_dense_adam_small   the same net at 100,000 rows, batch 128
    vs_dense_adam_large   26 features of 100,000 values, 13 dense columns, MLP 64, batch 4096
    embedding_share       at MovieLens-1M's size, and at 26 features under a full cross layer: the
                          larger of two estimates. Alone: ids to vectors and the vectors' gradients
                          to rows, run by themselves (warm caches flatter it). By removal: what the
                          step saves when constant vectors stand in the table's place, whose
                          gradient, the tower's work, is still computed. Both are medians of
                          ratios of neighbouring short runs, with quartiles beside them, as a
                          difference of two long runs drowns in what else the machine does.

Ratios are the smallest over one thread and --threads, shares the largest; times are medians in
milliseconds of one step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import harness
from features.batches import KeyBatch, KeyColumn
from features.schema import FeatureSet
from features.settings import FeaturesSettings, TableSettings
from native import memory
from trainer.dense_optimizer import DenseOptimizer
from trainer.losses import binary_cross_entropy
from trainer.model import Model, build_model
from trainer.representations.registry import build_layout
from trainer.settings import TowerSettings, TrainSettings
from trainer.towers import build_tower

ML1M_SIZES = (6040, 3706, 2, 7, 21, 3439)
ML1M_TOWER = TowerSettings(kind="dcnv2", cross_layers=1, hidden=[192])


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One size of model and batch."""

    name: str
    sizes: Sequence[int]  # values of each feature
    width: int  # of a row; a feature has lookups x width
    lookups: int
    num_dense: int
    tower: TowerSettings
    batch_size: int
    with_plain: bool = True
    with_share: bool = False

    @property
    def feature_width(self) -> int:
        """Columns of a feature."""
        return self.width * self.lookups

    @property
    def rows(self) -> int:
        """Rows of our table, of as many parameters as their tables have."""
        return sum(self.sizes) * self.lookups


@dataclass(frozen=True, slots=True)
class Data:
    """Samples in memory."""

    ids: np.ndarray  # int64[N, F], as a data frame has them
    dense: np.ndarray  # float32[N, D]
    labels: np.ndarray  # float32[N]


def draw(case: Case, num_samples: int) -> Data:
    """Returns samples whose ids are skewed like clicks."""
    generator = np.random.default_rng(0)
    skewed = generator.random((num_samples, len(case.sizes))) ** 3
    return Data(
        ids=(skewed * np.array(case.sizes)).astype(np.int64),
        dense=generator.normal(size=(num_samples, case.num_dense)).astype(np.float32),
        labels=(generator.random(num_samples) < 0.3).astype(np.float32),
    )


class Batches:
    """The first row of each next batch, over and over."""

    def __init__(self, num_samples: int, batch_size: int) -> None:
        self._last = num_samples - batch_size
        self._batch_size = batch_size
        self._first = 0

    def next(self) -> slice:
        """Returns the next batch's rows."""
        first = self._first if self._first <= self._last else 0
        self._first = first + self._batch_size
        return slice(first, first + self._batch_size)


class Ours:
    """Our loop: its own model, table and optimizer, on keys in memory."""

    def __init__(self, case: Case, data: Data, threads: int) -> None:
        table = TableSettings(rows=case.rows, width=case.width, lookups=case.lookups)
        names = [f"f{i}" for i in range(len(case.sizes))]
        feature_set = FeatureSet.build(None, FeaturesSettings(categorical=names), {}, table)
        self._model: Model = build_model(
            build_layout(feature_set, None, table),
            case.num_dense,
            table,
            case.tower,
            seed=0,
            threads=threads,
            device=torch.device("cpu"),
        )
        self._optimizer = DenseOptimizer(self._model.tower, TrainSettings())
        # What the input stream yields: the keys of integers are their bits, feature by feature.
        self._keys = np.ascontiguousarray(data.ids.T).view(np.uint64)
        self._data = data
        self._batches = Batches(len(data.labels), case.batch_size)
        width = case.feature_width * len(case.sizes)
        # As small as gradients of a mean over the batch are, so that rows stay where they are.
        self._gradient = torch.randn(case.batch_size, width) * 1e-6

    def step(self) -> None:
        """Takes a training step."""
        rows = self._batches.next()
        batch = self._batch(rows)
        logits = self._model.logits(self._model.route(batch), batch.dense)
        loss = binary_cross_entropy(logits, torch.from_numpy(self._data.labels[rows]))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def embedding(self) -> None:
        """Takes the table's part of a step."""
        batch = self._batch(self._batches.next())
        self._model.engine.lookup(self._model.route(batch)).backward(self._gradient)

    def _batch(self, rows: slice) -> KeyBatch:
        columns: dict[str, KeyColumn] = {}
        return KeyBatch(
            rows.stop - rows.start, columns, self._keys[:, rows], None, self._data.dense[rows]
        )


def plain_step(case: Case, data: Data) -> Callable[[], None]:
    """Returns a step of the loop one writes by hand."""
    tables = nn.ModuleList(nn.Embedding(size, case.feature_width) for size in case.sizes)
    widths = [case.feature_width] * len(case.sizes)
    tower = build_tower(case.tower, widths, case.num_dense, seed=0)
    optimizer = torch.optim.Adam([*tables.parameters(), *tower.parameters()], lr=1e-3)
    ids, dense = torch.from_numpy(data.ids), torch.from_numpy(data.dense)
    labels = torch.from_numpy(data.labels)
    batches = Batches(len(labels), case.batch_size)

    def step() -> None:
        rows = batches.next()
        batch = ids[rows]
        vectors = torch.cat([table(batch[:, i]) for i, table in enumerate(tables)], dim=1)
        loss = F.binary_cross_entropy_with_logits(tower(vectors, dense[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def tower_step(case: Case, data: Data) -> Callable[[], None]:
    """Returns our step with constant vectors in the table's place."""
    widths = [case.feature_width] * len(case.sizes)
    tower = build_tower(case.tower, widths, case.num_dense, seed=0)
    optimizer = DenseOptimizer(tower, TrainSettings())
    vectors = (torch.randn(case.batch_size, sum(widths)) * 0.05).requires_grad_()
    batches = Batches(len(data.labels), case.batch_size)

    def step() -> None:
        rows = batches.next()
        vectors.grad = None
        logits = tower(vectors, torch.from_numpy(data.dense[rows]))
        loss = binary_cross_entropy(logits, torch.from_numpy(data.labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def many(step: Callable[[], None], count: int) -> None:
    """Takes several steps: one alone is too short to time."""
    for _ in range(count):
        step()


def shares(ours: Ours, tower: Callable[[], None], count: int, pairs: int) -> dict[str, float]:
    """Returns both estimates of the embedding's share, each with its quartiles."""
    alone, removal = [], []
    for _ in range(pairs):
        whole = _seconds(ours.step, count)
        alone.append(_seconds(ours.embedding, count) / whole)
        # The whole step on both sides of the tower: a drift of the machine falls out.
        without = _seconds(tower, count)
        removal.append(1 - 2 * without / (whole + _seconds(ours.step, count)))
    found = {}
    for name, values in (("alone", alone), ("by_removal", removal)):
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        found |= {
            f"share_{name}": median,
            f"share_{name}_q25": low,
            f"share_{name}_q75": high,
        }
    return found


def _seconds(step: Callable[[], None], count: int) -> float:
    begin = time.perf_counter()
    many(step, count)
    return time.perf_counter() - begin


def measure(case: Case, threads: int, quick: bool) -> dict[str, object]:
    """Returns the times of one step of each contender, and their ratios."""
    harness.progress(f"{case.name}, batch {case.batch_size}, {threads} threads")
    torch.set_num_threads(threads)
    data = draw(case, num_samples=case.batch_size * (4 if quick else 40))
    ours = Ours(case, data, threads)
    steps = {"ours": ours.step}
    if case.with_plain:
        steps["plain"] = plain_step(case, data)
    count = max(1, 2**15 // case.batch_size // (8 if quick else 1))
    times = harness.compare(
        {name: partial(many, step, count) for name, step in steps.items()},
        repeats=3 if quick else 11,
    )
    row: dict[str, object] = {
        "case": case.name,
        "batch": case.batch_size,
        "lookups": case.lookups,
        "threads": threads,
    }
    row |= {f"{name}_ms": seconds / count * 1000 for name, seconds in times.items()}
    row["samples_per_s"] = case.batch_size * count / times["ours"]
    if case.with_plain:
        row["speedup"] = times["plain"] / times["ours"]
    if case.with_share:
        # Short runs of some 20 ms, or of one step where that takes longer.
        short = max(1, 2048 // case.batch_size)
        row |= shares(ours, tower_step(case, data), short, pairs=5 if quick else 41)
    return row


def cases(quick: bool) -> list[Case]:
    """Returns the cases, the small ones first."""
    ml1m = [
        Case(
            name="ml1m",
            sizes=ML1M_SIZES,
            width=30 // lookups,
            lookups=lookups,
            num_dense=0,
            tower=ML1M_TOWER,
            batch_size=batch_size,
            with_share=True,
        )
        for batch_size in (128, 4096)
        for lookups in (1, 2)
    ]
    scale = 100_000 / sum(ML1M_SIZES)
    values = 2_000 if quick else 100_000
    small = Case(
        name="ml1m_100k",
        sizes=[max(2, round(size * scale)) for size in ML1M_SIZES],
        width=30,
        lookups=1,
        num_dense=0,
        tower=ML1M_TOWER,
        batch_size=128,
    )
    large = Case(
        name="26_features",
        sizes=[values] * 26,
        width=32,
        lookups=1,
        num_dense=13,
        tower=TowerSettings(kind="mlp", hidden=[64]),
        batch_size=4096,
    )
    crossed = Case(
        name="26_features_cross",
        sizes=[values] * 26,
        width=32,
        lookups=1,
        num_dense=13,
        tower=TowerSettings(kind="dcnv2", cross_layers=1, hidden=[512, 256]),
        batch_size=4096,
        with_plain=False,
        with_share=True,
    )
    return [*ml1m, small, large, crossed]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every case and prints the ratios."""
    options = harness.start("step", __doc__, arguments)
    memory.tune_allocator()
    rows = [
        measure(case, threads, options.quick)
        for case in cases(options.quick)
        for threads in sorted({1, options.threads})
    ]

    def worst(case: str) -> float:
        return min(float(str(row["speedup"])) for row in rows if row["case"] == case)

    found = [
        float(str(row[key]))
        for row in rows
        for key in ("share_alone", "share_by_removal")
        if key in row
    ]

    harness.finish(
        options,
        ratios={
            "vs_sliced_loop": worst("ml1m"),
            "vs_dense_adam_small": worst("ml1m_100k"),
            "vs_dense_adam_large": worst("26_features"),
            "embedding_share": max(found),
        },
        rows=rows,
    )


if __name__ == "__main__":
    main()
