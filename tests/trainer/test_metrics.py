import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from features.errors import TrainingError
from trainer.metrics import NUM_BINS, Metrics, StreamingMetrics
from trainer.sorted_runs import SortedRuns


def measure(
    directory: Path, scores, labels, weights=None, buffer: int = 1 << 20, batch: int = 1000
) -> Metrics:
    with StreamingMetrics(directory, buffer) as metrics:
        for start in range(0, len(scores), batch):
            part = slice(start, start + batch)
            metrics.update(scores[part], labels[part], None if weights is None else weights[part])
        return metrics.result()


def sample(n: int, distinct: int | None = None, seed: int = 0):
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 4, n)
    if distinct:
        scores = np.floor(scores * distinct) / distinct
    labels = (rng.random(n) < scores).astype(np.float32)
    return scores, labels, rng.exponential(1, n) * (rng.random(n) < 0.9)


@pytest.mark.parametrize("buffer", [1 << 20, 7000, 400], ids=["memory", "two runs", "fifty runs"])
@pytest.mark.parametrize("distinct", [None, 40, 1], ids=["continuous", "ties", "all equal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_equal_scikit_learns(tmp_path, buffer, distinct, weighted) -> None:
    scores, labels, weights = sample(20_000, distinct)
    if distinct == 1:
        scores, labels = np.full(20_000, 0.3), (np.arange(20_000) % 3 == 0).astype(np.float32)
    weights = weights if weighted else None

    metrics = measure(tmp_path, scores, labels, weights, buffer)

    expected_loss = log_loss(labels, scores, sample_weight=weights)
    labels = labels.astype(np.float64)
    rate = np.average(labels, weights=weights)
    entropy = log_loss(labels, np.full(20_000, rate), sample_weight=weights)
    assert metrics.auc == pytest.approx(
        roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert metrics.log_loss == pytest.approx(expected_loss, rel=1e-12)
    assert metrics.normalized_entropy == pytest.approx(expected_loss / entropy, rel=1e-12)
    assert metrics.calibration == pytest.approx(
        np.average(scores, weights=weights) / np.average(labels, weights=weights), rel=1e-12
    )
    assert metrics.rows == 20_000
    assert metrics.positive_rate == pytest.approx(rate, rel=1e-12)


@given(
    values=st.lists(
        st.tuples(
            st.floats(0, 1), st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 3.25]) | st.floats(0, 9)
        ),
        min_size=1,
        max_size=60,
    ),
    buffer=st.integers(1, 20),
    batch=st.integers(1, 20),
)
def test_auc_does_not_depend_on_buffer_and_batches(tmp_path_factory, values, buffer, batch) -> None:
    scores, labels, weights = (np.array(each, float) for each in zip(*values, strict=True))
    directory = tmp_path_factory.getbasetemp()

    metrics = measure(directory, scores, labels, weights, buffer, batch)

    positive, negative = labels > 0, labels == 0
    above = (scores[positive][:, None] > scores[negative]) + 0.5 * (
        scores[positive][:, None] == scores[negative]
    )
    pairs = weights[positive][:, None] * weights[negative]
    if pairs.sum() > 1e-6:
        assert metrics.auc == pytest.approx((above * pairs).sum() / pairs.sum(), abs=1e-9)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc_and_says_so(tmp_path, caplog, label) -> None:
    scores = np.linspace(0.1, 0.9, 50)
    caplog.set_level(logging.WARNING)

    metrics = measure(tmp_path, scores, np.full(50, label))

    assert metrics.auc is None
    assert metrics.normalized_entropy is None
    assert metrics.log_loss == pytest.approx(log_loss(np.full(50, label), scores, labels=[0, 1]))
    assert "there is no AUC" in caplog.text


def test_no_rows_have_no_metrics(tmp_path) -> None:
    empty = np.empty(0)

    metrics = measure(tmp_path, empty, empty)

    assert metrics.rows == 0
    assert metrics.headline() == dict.fromkeys(metrics.headline())


def test_calibration_curve_equals_scikit_learns_quantile_bins(tmp_path) -> None:
    scores, labels, _ = sample(400 * NUM_BINS)

    curve = measure(tmp_path, scores, labels, buffer=900).curve

    observed, predicted = calibration_curve(labels, scores, n_bins=NUM_BINS, strategy="quantile")
    np.testing.assert_allclose([each.observed for each in curve], observed, rtol=1e-12)
    np.testing.assert_allclose([each.predicted for each in curve], predicted, rtol=1e-12)


def test_calibration_curve_never_parts_equal_predictions(tmp_path) -> None:
    scores, labels, weights = sample(5000, distinct=7)

    curve = measure(tmp_path, scores, labels, weights, buffer=300).curve

    means = [each.predicted for each in curve]
    assert sum(each.weight for each in curve) == pytest.approx(weights.sum())
    assert means == sorted(means)
    assert len(means) <= 7


def test_certain_and_wrong_predictions_are_clipped_as_in_scikit_learn(tmp_path) -> None:
    scores, labels = np.array([0.0, 1.0, 0.5, 1.0]), np.array([1, 0, 1, 1])

    metrics = measure(tmp_path, scores, labels)

    assert metrics.log_loss == pytest.approx(log_loss(labels, scores), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_prediction_that_is_no_number_is_refused_with_its_position(tmp_path, bad) -> None:
    scores = np.array([0.1, 0.2, bad])

    with StreamingMetrics(tmp_path, 100) as metrics:
        metrics.update(np.array([0.5, 0.5]), np.array([0, 1]))
        with pytest.raises(TrainingError, match="prediction 4 of this data set is"):
            metrics.update(scores, np.array([0, 1, 1]))


def test_spilled_runs_leave_nothing_in_the_folder(tmp_path) -> None:
    scores, labels, _ = sample(5000)

    with StreamingMetrics(tmp_path, 100) as metrics:
        metrics.update(scores, labels)
        during = list(tmp_path.iterdir())

    assert during == []
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_follow_the_number_of_predictions(tmp_path) -> None:
    runs = SortedRuns(tmp_path, buffer=1000)
    rng = np.random.default_rng(0)
    largest = 0

    for _ in range(20):
        runs.add(rng.random(1500), np.ones(1500))
    for group in runs.merged():
        largest = max(largest, len(group.scores))
    held = len(runs._scores)
    runs.close()

    assert held <= 1000
    assert largest <= 2 * 1000 + 1


def test_scores_that_cannot_be_spilled_name_the_folder(tmp_path) -> None:
    scores, labels, _ = sample(500)

    with (
        StreamingMetrics(tmp_path / "missing", 100) as metrics,
        pytest.raises(TrainingError, match=r"cannot spill 100 scores to .*missing: No such file"),
    ):
        metrics.update(scores, labels)


def test_metrics_survive_json(tmp_path) -> None:
    scores, labels, weights = sample(500)
    metrics = measure(tmp_path, scores, labels, weights)

    again = Metrics.from_json(metrics.to_json())

    assert again == metrics
