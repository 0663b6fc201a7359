"""What each feature is worth to a trained model: the AUC it loses when it no longer sees it.

A feature is taken away by putting the mean of its embedding over the rows in the place of every
row's own; dense columns, all together, likewise. Nothing is trained anew, so what other features
could make up for after another training is not seen.

The error is that of DeLong et al. 1988 for two AUCs on the same rows, with weights: V_i, the share
of negatives that positive i is above (ties half), averages to the AUC, likewise W_j for negatives;
with d the difference of V (W) with and without the feature,

    variance = sum w_i^2 (d_i - mean d)^2 / (sum w_i)^2  over positives, and the same over negatives
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.batches import KeyBatch
from features.parquet import Dataset
from sharding.assemble import combine
from trainer.evaluate import BATCH_ROWS, TrainedModel
from trainer.model import Model
from trainer.stream import FileStream

# Scores are held in memory: 4 bytes for each row and feature.
MOST_ROWS = 200_000
DENSE = "(dense columns)"

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureWorth:
    """What one feature is worth."""

    feature: str
    auc_loss: float
    """The AUC with the feature less the AUC without it."""
    error: float
    """Standard error of `auc_loss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the features of a model are worth on some rows."""

    rows: int
    auc: float
    """With all features."""
    features: tuple[FeatureWorth, ...]


def measure_worth(
    trained: TrainedModel,
    dataset: Dataset,
    most_rows: int = MOST_ROWS,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Worth | str:
    """Returns the worth of every feature, or a sentence that says why it has none.

    Batches are taken evenly over the data until they hold `most_rows` rows. They are read twice:
    for the means, and for the scores. Raises DataError where the files do not fit the model.
    """
    model = trained.model
    dataset.check(trained.feature_set, model.layout.key_classes)
    with torch.inference_mode():
        means = _means(trained, dataset, most_rows, on_rows)
        if means is None:
            return "There are no rows."
        collected = list(_scores(trained, dataset, most_rows, means, on_rows))
    scores = np.concatenate([scores for scores, _, _ in collected], axis=1)
    labels = np.concatenate([labels for _, labels, _ in collected])
    weights = np.concatenate([weights for _, _, weights in collected])
    is_positive = labels > 0
    if not weights[is_positive].any() or not weights[~is_positive].any():
        return "The labels of the rows are all alike: there is no AUC."
    whole = _placements(scores[0], is_positive, weights)
    names = [route.name for route in model.layout.routes]
    if len(scores) > len(names) + 1:
        names.append(DENSE)
    return Worth(
        rows=len(labels),
        auc=whole.auc,
        features=tuple(
            _loss(name, whole, _placements(without, is_positive, weights))
            for name, without in zip(names, scores[1:], strict=True)
        ),
    )


def spread_batches(trained: TrainedModel, dataset: Dataset, most_rows: int) -> Iterator[KeyBatch]:
    """Yields batches spread evenly over the data."""
    share = min(1.0, most_rows / max(dataset.num_rows, 1))
    rows = 0
    with FileStream(dataset, trained.feature_set, trained.profile, batch_size=BATCH_ROWS) as stream:
        for number, item in enumerate(stream):
            if int((number + 1) * share) == int(number * share) and number:
                continue
            rows += item.batch.num_rows
            yield item.batch
            if rows >= most_rows:
                break


def _means(
    trained: TrainedModel, dataset: Dataset, most_rows: int, on_rows: Callable[[int], None]
) -> tuple[Tensor, Tensor] | None:
    """Returns the means of the embedding [W] and of the dense columns [D]; None without rows."""
    sums: tuple[Tensor, Tensor] | None = None
    rows = 0
    for batch in spread_batches(trained, dataset, most_rows):
        embeddings, dense = tower_inputs(trained.model, batch)
        added = (embeddings.double().sum(0), dense.double().sum(0))
        sums = added if sums is None else (sums[0] + added[0], sums[1] + added[1])
        rows += batch.num_rows
        on_rows(batch.num_rows)
    if sums is None or not rows:
        return None
    return (sums[0] / rows).float(), (sums[1] / rows).float()


def _scores(
    trained: TrainedModel,
    dataset: Dataset,
    most_rows: int,
    means: tuple[Tensor, Tensor],
    on_rows: Callable[[int], None],
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], _Floats]]:
    """Yields logits [1 + features, n] (whole, then without each), labels and weights of batches."""
    model = trained.model
    for batch in spread_batches(trained, dataset, most_rows):
        assert batch.label is not None  # noqa: S101  the feature set of a job names the label
        embeddings, dense = tower_inputs(model, batch)
        logits = [model.tower(embeddings, dense)]
        for route in model.layout.routes:
            columns = slice(route.column, route.column + route.width_total)
            without = embeddings.clone()
            without[:, columns] = means[0][columns]
            logits.append(model.tower(without, dense))
        if dense.shape[1]:
            logits.append(model.tower(embeddings, means[1].expand(len(dense), -1)))
        weights = np.ones(batch.num_rows) if batch.weight is None else batch.weight.astype("f8")
        yield torch.stack(logits).cpu().numpy(), np.array(batch.label), weights
        on_rows(batch.num_rows)


def tower_inputs(model: Model, batch: KeyBatch) -> tuple[Tensor, Tensor]:
    """Returns what the tower is given: embeddings [B, W] and dense columns [B, D]."""
    rows = model.route(batch)
    vectors = model.engine.lookup(rows)
    if rows.parts:
        vectors = combine(vectors, rows.parts)
    return vectors, model.tensor(batch.dense)


@dataclass(frozen=True, slots=True, eq=False)
class _Placements:
    """Of every positive the share of negatives below it, of every negative that of positives
    above it, each with its weight as a share of its class."""

    positives: _Floats
    negatives: _Floats
    positive_weights: _Floats
    negative_weights: _Floats

    @property
    def auc(self) -> float:
        return float(self.positives @ self.positive_weights)


def _placements(
    scores: NDArray[np.float32], is_positive: NDArray[np.bool_], weights: _Floats
) -> _Placements:
    positives, negatives = scores[is_positive], scores[~is_positive]
    of_positives = weights[is_positive] / weights[is_positive].sum()
    of_negatives = weights[~is_positive] / weights[~is_positive].sum()
    return _Placements(
        positives=_share_below(positives, negatives, of_negatives),
        negatives=1 - _share_below(negatives, positives, of_positives),
        positive_weights=of_positives,
        negative_weights=of_negatives,
    )


def _share_below(
    scores: NDArray[np.float32], others: NDArray[np.float32], weights: _Floats
) -> _Floats:
    """Returns of each score the weight of the others below it, and half of those equal to it."""
    order = np.argsort(others, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    ordered = others[order]
    first, last = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (below[first] + below[last]) / 2


def _loss(name: str, whole: _Placements, without: _Placements) -> FeatureWorth:
    variance = 0.0
    for with_it, without_it, weights in (
        (whole.positives, without.positives, whole.positive_weights),
        (whole.negatives, without.negatives, whole.negative_weights),
    ):
        lost = with_it - without_it
        variance += float((weights**2) @ (lost - lost @ weights) ** 2)
    return FeatureWorth(
        feature=name, auc_loss=whole.auc - without.auc, error=float(np.sqrt(variance))
    )
