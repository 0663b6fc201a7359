"""What a trained model says of data: its metrics, or its predictions row by row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.dense import build_transforms
from features.parquet import Dataset
from features.profile import Profile
from features.schema import FeatureSet
from features.statistics import FeatureStatistics
from trainer import saving
from trainer.metrics import Metrics, StreamingMetrics
from trainer.model import Model, build_model, choose_device, num_threads
from trainer.run import Run
from trainer.signals import Interrupted
from trainer.stream import FileStream

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


def load_model(run: Run, which: str | int = "best") -> TrainedModel:
    """Loads the model of a run: "best" in validation, "last", or that of a step.

    Raises SnapshotError where there is no such checkpoint or it is damaged. The run may be in
    training meanwhile.
    """
    job, profile = run.job, run.profile()
    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    with saving.open_checkpoint(run.checkpoints, which) as bundle:
        model = build_model(
            saving.layout_in(bundle),
            sum(transform.width for transform in build_transforms(feature_set, profile)),
            # Without the optimizer's state, which predictions do not need.
            job.table.model_copy(update={"optimizer": "sgd"}),
            job.tower,
            seed=job.train.seed,
            threads=num_threads(job.train),
            device=choose_device(job.train.device),
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
    should_stop: Callable[[], bool] = lambda: False,
) -> Metrics:
    """Returns the metrics of a model on a data set with labels, read once in file order.

    `buffer` predictions are held in memory, more are spilled to the folder `scratch`. Raises
    Interrupted at the first batch after `should_stop` says so.
    """
    with (
        StreamingMetrics(scratch, buffer) as metrics,
        FileStream(dataset, feature_set, statistics, batch_size=BATCH_ROWS) as stream,
    ):
        for item in stream:
            batch = item.batch
            if batch.label is None:
                raise ValueError("evaluation needs labels: the feature set names no label column")
            metrics.update(model.predict(batch), batch.label, batch.weight)
            on_rows(batch.num_rows)
            if should_stop():
                raise Interrupted
        return metrics.result()


def predict(
    model: Model, dataset: Dataset, feature_set: FeatureSet, statistics: FeatureStatistics
) -> Iterator[Predictions]:
    """Yields the predictions of all rows in the order of the files; labels are not needed."""
    unlabelled = replace(feature_set, label=None, weight=None)
    with FileStream(dataset, unlabelled, statistics, batch_size=BATCH_ROWS) as stream:
        for item in stream:
            yield Predictions(
                file=item.file, first_row=item.first_row, scores=model.predict(item.batch)
            )
