"""What each codec costs a trained model: bytes against AUC, and the smallest that is good enough.

A codec is tried by putting its decoded rows in the place of the model's own and evaluating that, so
the AUC is the one that its snapshot will have.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.batches import RowBatch
from features.errors import ConfigError
from features.parquet import Dataset
from features.routing import Layout
from storage.codecs import Codec, CodecFactory, ErrorSum, MeasuredError, codec_named
from trainer.evaluate import TrainedModel, evaluate
from trainer.metrics import Metrics
from trainer.model import Model

# Bytes of rows that are read, coded and put back at a time.
_BLOCK_BYTES = 16 << 20
_WHOLE = "float32"

ReadRows = Callable[[int, int], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One codec on one model."""

    codec: str
    row_bytes: int
    table_bytes: int
    """Bytes of all rows, and of what they share."""
    reply_bytes: int
    """Bytes of the rows of a sample with one value for each feature."""
    bits_per_weight: float
    relative_error: float
    largest_error: float
    auc: float
    auc_loss: float
    """The AUC of the rows themselves less this one: negative where the codec happens to help."""
    log_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """The model whose rows are coded, and the data that says what they are worth then."""

    trained: TrainedModel
    read_rows: ReadRows
    """Returns rows [first, end) of the table as trained."""
    make: Callable[[CodecFactory], Codec]
    """Returns the codec, trained on rows of the table where it learns."""
    dataset: Dataset
    scratch: Path
    """A folder for predictions that do not fit `buffer`."""
    buffer: int

    @property
    def layout(self) -> Layout:
        """The layout of the model."""
        return self.trained.model.layout


def candidates(layout: Layout) -> tuple[str, ...]:
    """Returns the codecs worth a try for rows of the layout's width, from large to small."""
    width = layout.width
    texts = [_WHOLE, "bfloat16", "float16", "int8", "float8", "int4", "int2"]
    texts += [f"binary:{refinements}" for refinements in (3, 1, 0)]
    # Parts of at least 2 and of at least 4 values, where the width has such divisors.
    for least in (2, 4):
        part_widths = [each for each in range(least, width) if width % each == 0]
        for parts in [width // each for each in part_widths[:1]]:
            texts += [f"pq:{parts}x8", f"opq:{parts}x8"]
    for dims in sorted({-(-3 * width // 4), -(-width // 2)} - {width}, reverse=True):
        texts += [f"pca:{dims}+int8", f"pca:{dims}+float8"]
    # A prefix leaves lookups out, which a reader combines with the others.
    most = 0 if layout.has_readers else max(len(route.lookups) for route in layout.routes)
    texts += [f"prefix:{count}+int8" for count in range(most - 1, 0, -1)]
    return tuple(dict.fromkeys(texts))


def try_codecs(
    subject: Subject,
    texts: Sequence[str],
    on_codec: Callable[[str], None] = lambda _: None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Iterator[Trial]:
    """Yields a trial of every codec, the rows themselves first, whether or not they are named.

    The model holds the rows of the codec tried last, or its own again when all are done. Raises
    CodecError for a codec that does not suit the table, ConfigError where the data has no AUC.
    """
    factories = [codec_named(text) for text in dict.fromkeys((_WHOLE, *texts))]
    whole: float | None = None
    for factory in factories:
        on_codec(factory.text)
        codec = subject.make(factory)
        error = _put_rows(subject, codec)
        metrics = _evaluate(subject, codec, on_rows)
        if metrics.auc is None:
            raise ConfigError(
                f"{subject.dataset.num_rows:,} rows have no AUC: their labels are all alike",
                "measure codecs on rows of both classes",
            )
        whole = metrics.auc if whole is None else whole
        yield _trial(subject.layout, codec, error, metrics, metrics.auc, whole)
    _put_rows(subject, codec_named(_WHOLE)(subject.layout.width))


def choose(trials: Sequence[Trial], max_auc_loss: float) -> Trial:
    """Returns the smallest trial that loses at most `max_auc_loss`, of equal ones the best.

    A prefix stores as many rows as the codec inside it and is never smaller: it is for replies.
    Raises ConfigError where even the rows themselves are not among them.
    """
    if not max_auc_loss >= 0:
        raise ConfigError(
            f"an AUC loss of at most {max_auc_loss}", "give 0 or more, for example 0.0005"
        )
    holding = [trial for trial in trials if trial.auc_loss <= max_auc_loss]
    if not holding:
        raise ConfigError(
            f"none of {len(trials)} codecs loses at most {max_auc_loss} of AUC",
            f"try {_WHOLE}, which loses nothing",
        )
    return min(holding, key=lambda trial: (trial.table_bytes, trial.auc_loss))


@dataclass(frozen=True, slots=True, eq=False)
class _ServedModel(Model):
    """A model of which only the columns in `served` get vectors, the others zeros."""

    served: Tensor

    def logits(self, rows: RowBatch, dense: NDArray[np.float32]) -> Tensor:
        """Returns logits float32[B]."""
        vectors = self.engine.lookup(rows)
        return self.tower(vectors.where(self.served, 0), self.tensor(dense))


def _put_rows(subject: Subject, codec: Codec) -> MeasuredError:
    """Overwrites the model's rows with what the codec makes of the trained ones."""
    engine, total = subject.trained.model.engine, ErrorSum()
    step = max(1, _BLOCK_BYTES // (4 * codec.width))
    for first in range(0, engine.rows, step):
        rows = subject.read_rows(first, min(first + step, engine.rows))
        raw = codec.encode(rows, engine.num_threads, first_row=first)
        decoded = codec.decode(raw, threads=engine.num_threads)
        total.add(rows, decoded)
        engine.weight[first : first + len(rows)].copy_(torch.from_numpy(decoded))
    return total.result()


def _evaluate(subject: Subject, codec: Codec, on_rows: Callable[[int], None]) -> Metrics:
    model, trained = subject.trained.model, subject.trained
    if codec.lookups is not None:
        served = _served_columns(subject.layout, codec.lookups).to(model.device)
        model = _ServedModel(model.layout, model.engine, model.tower, model.device, served)
    return evaluate(
        model,
        subject.dataset,
        trained.feature_set,
        trained.profile,
        scratch=subject.scratch,
        buffer=subject.buffer,
        on_rows=on_rows,
    )


def _served_columns(layout: Layout, num_lookups: int) -> Tensor:
    """Returns bool[W]: whether a column of the embedding belongs to one of the first lookups."""
    served = torch.zeros(layout.out_width, dtype=torch.bool)
    for route in layout.routes:
        for lookup in route.lookups[:num_lookups]:
            served[lookup.column : lookup.column + layout.width] = True
    return served


def _trial(
    layout: Layout,
    codec: Codec,
    error: MeasuredError,
    metrics: Metrics,
    auc: float,
    whole: float,
) -> Trial:
    table_bytes = layout.rows * codec.row_bytes + codec.shared_bytes
    served = [
        min(len(route.lookups), codec.lookups or len(route.lookups)) for route in layout.routes
    ]
    # Vectors that readers make travel as float32.
    reply_bytes = 4 * layout.out_width if layout.has_readers else sum(served) * codec.row_bytes
    return Trial(
        codec=codec.text,
        row_bytes=codec.row_bytes,
        table_bytes=table_bytes,
        reply_bytes=reply_bytes,
        bits_per_weight=8 * table_bytes / (layout.rows * layout.width),
        relative_error=error.relative,
        largest_error=error.largest,
        auc=auc,
        auc_loss=whole - auc,
        log_loss=metrics.log_loss,
    )
