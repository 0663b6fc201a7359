"""What a trained model says of data: its metrics, or its predictions row by row."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.dense import build_transforms
from features.parquet import Dataset
from features.profile import Profile
from features.schema import FeatureSet
from features.statistics import FeatureStatistics
from sharding.ranks import Ranks
from storage.bundle import Verify
from trainer import saving
from trainer.metrics import Metrics, StreamingMetrics
from trainer.model import Model, build_model, choose_device, num_threads
from trainer.run import Run
from trainer.signals import Interrupted
from trainer.stream import FileStream
from trainer.totals import Together

# Rows of an evaluation batch: large enough for the kernels, small enough for the cache.
BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedModel:
    """A model out of a run's folder, with what its input has to be read by."""

    model: Model
    feature_set: FeatureSet
    profile: Profile
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The predictions of neighbouring rows of one file."""

    file: int
    """Number of the file in the dataset."""
    first_row: int
    scores: NDArray[np.float64]
    """Probabilities [n]."""


def load_model(run: Run, which: str | int = "best", ranks: Ranks | None = None) -> TrainedModel:
    """Loads the model of a run: "best" in validation, "last", or that of a step.

    Of several ranks each holds its rows of the table.

    Raises SnapshotError where there is no such checkpoint or it is damaged. The run may be in
    training meanwhile.
    """
    job, profile = run.job, run.profile()
    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    # Several ranks check, by crc32, what each reads, and no more.
    verify: Verify = "lazy" if ranks is not None and ranks.world_size > 1 else True
    with saving.open_checkpoint(run.checkpoints, which, verify) as bundle:
        model = build_model(
            saving.layout_in(bundle),
            sum(transform.width for transform in build_transforms(feature_set, profile)),
            # Without the optimizer's state, which predictions do not need.
            job.table.model_copy(update={"optimizer": "sgd"}),
            job.tower,
            seed=job.train.seed,
            threads=num_threads(job.train),
            device=choose_device(job.train.device),
            ranks=ranks,
        )
        saving.restore(model, bundle, None)
        step = saving.state_in(bundle).step
    model.tower.eval()
    return TrainedModel(model=model, feature_set=feature_set, profile=profile, step=step)


def evaluate(
    model: Model,
    dataset: Dataset,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    *,
    scratch: Path,
    buffer: int,
    on_rows: Callable[[int], None] = lambda _: None,
    together: Together | None = None,
) -> Metrics:
    """Returns the metrics of a model on a data set with labels, read once in file order.

    `buffer` predictions are held in memory, more are spilled to the folder `scratch`. Ranks share
    the rows and get the same metrics, which are those of one process. Raises Interrupted at the
    first batch after one was asked to stop.
    """
    if feature_set.label is None:
        raise ValueError("evaluation needs labels: the feature set names no label column")
    shared = together or Together.alone()
    metrics: Metrics | None = None
    with StreamingMetrics(scratch, buffer) as collected:
        scored = _scored(model, dataset, feature_set, statistics, shared.ranks, shared.poll)
        for rows in scored:
            collected.update(rows.scores, rows.labels, rows.weights)
            on_rows(len(rows.scores))
        if shared.ranks.is_first:
            metrics = collected.result()
    if shared.ranks.world_size == 1 and metrics is not None:
        return metrics
    tree = None if metrics is None else json.dumps(metrics.to_json()).encode()
    return Metrics.from_json(json.loads(shared.ranks.share(tree)))


def predict(
    model: Model,
    dataset: Dataset,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    ranks: Ranks | None = None,
) -> Iterator[Predictions]:
    """Yields the predictions of all rows in the order of the files; labels are not needed.

    Ranks share the rows; rank 0 yields all of them, the others nothing.
    """
    unlabelled = replace(feature_set, label=None, weight=None)
    for rows in _scored(model, dataset, unlabelled, statistics, ranks or Ranks.alone()):
        yield Predictions(file=rows.file, first_row=rows.first_row, scores=rows.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """Neighbouring rows of one file with what the model says of them."""

    file: int
    first_row: int
    scores: NDArray[np.float64]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32] | None

    def to_bytes(self) -> bytes:
        """The arrays behind file and row."""
        place = np.array([self.file, self.first_row], np.int64)
        arrays = [place, self.scores, self.labels]
        if self.weights is not None:
            arrays.append(self.weights)
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, data: bytes, rows: int, feature_set: FeatureSet) -> Self:
        """Reads `to_bytes` of so many rows."""
        file, first_row = np.frombuffer(data, np.int64, 2).tolist()
        floats = np.frombuffer(data, np.float32, offset=16 + 8 * rows)
        has_label, has_weight = feature_set.label is not None, feature_set.weight is not None
        return cls(
            file=file,
            first_row=first_row,
            scores=np.frombuffer(data, np.float64, rows, 16),
            labels=floats[: rows * has_label],
            weights=floats[rows * has_label :] if has_weight else None,
        )


def _scored(
    model: Model,
    dataset: Dataset,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    ranks: Ranks,
    poll: Callable[[], int | None] = lambda: None,
) -> Iterator[_Scored]:
    """Yields on rank 0 all rows in the order of the files; the others share the work.

    Every rank runs the model as often as any other: with a batch of nothing where it has none.
    """
    with FileStream(
        dataset,
        feature_set,
        statistics,
        batch_size=BATCH_ROWS,
        rank=ranks.rank,
        world_size=ranks.world_size,
    ) as stream:
        for sizes in stream.rounds():
            later: list[list[_Scored]] = [[] for _ in sizes]
            for turn in range(max(map(len, sizes))):
                own = sizes[ranks.rank]
                scored = _score(model, stream, turn < len(own))
                if ranks.world_size == 1:
                    yield scored
                else:
                    for rank, part in enumerate(ranks.gather(scored.to_bytes())):
                        if turn < len(sizes[rank]):
                            rows = sizes[rank][turn]
                            later[rank].append(_Scored.from_bytes(part, rows, feature_set))
                    # What is next in order need not wait: rank 0's rows open the round.
                    if ranks.is_first:
                        yield from later[0]
                        later[0].clear()
                if poll() is not None:
                    raise Interrupted
            for rest in later:
                yield from rest


def _score(model: Model, stream: FileStream, has_rows: bool) -> _Scored:
    if not has_rows:
        model.predict(stream.nothing())
        nothing = np.empty(0, np.float32)
        return _Scored(file=0, first_row=0, scores=np.empty(0), labels=nothing, weights=None)
    item = next(stream)
    labels = np.empty(0, np.float32) if item.batch.label is None else item.batch.label
    return _Scored(
        file=item.file,
        first_row=item.first_row,
        scores=model.predict(item.batch),
        labels=labels,
        weights=item.batch.weight,
    )
