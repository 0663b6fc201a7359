"""What a model's predictions are worth: exact AUC, log loss, normalised entropy, calibration.

One pass over predictions of any number in bounded memory. The sums need none; the AUC needs the
predictions in order, so they are sorted in runs of `buffer` and runs are spilled to disk and merged
(`trainer.sorted_runs`). Every number equals scikit-learn's on the same predictions and weights.

    AUC                  chance that a positive is predicted above a negative; ties count 1/2
    log loss             mean of -log(probability of what happened)
    normalised entropy   log loss / that of always predicting the positive rate (He et al. 2014)
    calibration          sum of predictions / sum of labels; 1 is right
    calibration curve    bins of equal weight in the order of predictions, equal ones never parted
"""

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import TrainingError
from trainer.sorted_runs import Group, SortedRuns

logger = logging.getLogger(__name__)

NUM_BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Some neighbouring predictions: their mean, and the share of positives among them."""

    predicted: float
    observed: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The metrics of one data set; None where a metric does not exist (one class only, no rows)."""

    rows: int
    weight: float
    positive_rate: float | None
    auc: float | None
    log_loss: float | None
    normalized_entropy: float | None
    calibration: float | None
    curve: tuple[CalibrationBin, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as plain JSON values."""
        return {**asdict(self), "curve": [asdict(each) for each in self.curve]}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Metrics":
        """Returns the metrics that `to_json` wrote."""
        return cls(**{**tree, "curve": tuple(CalibrationBin(**each) for each in tree["curve"])})

    def headline(self) -> dict[str, float | None]:
        """Returns the numbers people compare, without the curve."""
        return {
            "auc": self.auc,
            "log_loss": self.log_loss,
            "normalized_entropy": self.normalized_entropy,
            "calibration": self.calibration,
        }


class StreamingMetrics:
    """Collects predictions batch by batch; `result` gives the metrics of all of them.

    `buffer` is the number of predictions held in memory (16 bytes each, twice that while sorting);
    spilled runs lie in a nameless file in `directory`, which no crash can leave behind.
    """

    def __init__(self, directory: Path, buffer: int) -> None:
        self._runs = SortedRuns(directory, buffer)
        self._rows = 0
        self._weight = 0.0
        self._positive = 0.0
        self._predicted = 0.0
        self._loss = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the spilled runs back to the disk."""
        self._runs.close()

    def update(
        self,
        predictions: NDArray[np.float64],
        labels: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> None:
        """Adds a batch: probabilities [B], labels 0 or 1 [B] and weights [B] (None: all 1).

        Raises TrainingError where a prediction is no number.
        """
        scores = np.asarray(predictions, np.float64)
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            raise TrainingError(
                f"prediction {self._rows + int(bad[0])} of this data set is {scores[bad[0]]}",
                "the model has diverged: lower the learning rates, or use an earlier checkpoint",
            )
        positive = np.asarray(labels) > 0
        weight = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
        # The clipping of sklearn.metrics.log_loss: a certain and wrong prediction stays finite.
        # (Sums, not dot products: a BLAS may add in another order with other threads.)
        smallest = np.finfo(np.float64).eps
        certain = np.clip(scores, smallest, 1 - smallest)
        losses = -np.log(np.where(positive, certain, 1 - certain))
        self._rows += len(scores)
        self._weight += float(weight.sum())
        self._positive += float(weight[positive].sum())
        self._predicted += float((weight * scores).sum())
        self._loss += float((weight * losses).sum())
        self._runs.add(scores, np.where(positive, weight, -weight))

    def result(self) -> Metrics:
        """Returns the metrics of everything added; warns where there is only one class."""
        if not self._weight:
            return Metrics(
                rows=self._rows,
                weight=0.0,
                positive_rate=None,
                auc=None,
                log_loss=None,
                normalized_entropy=None,
                calibration=None,
                curve=(),
            )
        ranking = _Ranking(self._weight)
        for group in self._runs.merged():
            ranking.add(group)
        negative = self._weight - self._positive
        entropy = _entropy(self._positive / self._weight, negative / self._weight)
        # Weights that vanish beside the others are none: entropy and area would divide by nothing.
        has_both = entropy > 0 and ranking.positive * ranking.negative > 0
        if not has_both:
            only = "positive" if self._positive > 0 else "negative"
            logger.warning("all %d rows are %s: there is no AUC", self._rows, only)
        rate = self._positive / self._weight
        loss = self._loss / self._weight
        return Metrics(
            rows=self._rows,
            weight=self._weight,
            positive_rate=rate,
            auc=ranking.area / (ranking.positive * ranking.negative) if has_both else None,
            log_loss=loss,
            normalized_entropy=loss / entropy if has_both else None,
            calibration=self._predicted / self._positive if self._positive > 0 else None,
            curve=ranking.bins(),
        )


class _Ranking:
    """Sums over predictions that arrive in rising order: area under ROC, bins of the curve."""

    def __init__(self, weight: float) -> None:
        self.positive = 0.0
        self.negative = 0.0
        self.area = 0.0
        self._total = weight
        # Of each bin: weight, positive weight, weighted predictions.
        self._bins = np.zeros((3, NUM_BINS))

    def add(self, group: Group) -> None:
        """Adds the next distinct predictions with the weights of their positives and negatives."""
        below = self.negative + np.cumsum(group.negative) - group.negative
        self.area += float((group.positive * (below + group.negative / 2)).sum())
        weight = group.positive + group.negative
        middle = self.positive + self.negative + np.cumsum(weight) - weight / 2
        bins = np.minimum((middle / self._total * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        for sums, values in zip(
            self._bins, (weight, group.positive, weight * group.scores), strict=True
        ):
            sums += np.bincount(bins, values, NUM_BINS)
        self.positive += float(group.positive.sum())
        self.negative += float(group.negative.sum())

    def bins(self) -> tuple[CalibrationBin, ...]:
        """Returns the bins that hold anything."""
        return tuple(
            CalibrationBin(predicted=score / weight, observed=positive / weight, weight=weight)
            for weight, positive, score in self._bins.T.tolist()
            if weight > 0
        )


def _entropy(*shares: float) -> float:
    return -math.fsum(share * math.log(share) for share in shares if share > 0)
