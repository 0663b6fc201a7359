import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer import progress
from trainer.progress import RECENT, Meter


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_auc_is_that_of_the_most_recent_samples(clock) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=3 * RECENT).astype(np.float32)
    labels = (rng.random(3 * RECENT) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[:RECENT] = 0
    meter = Meter()

    for part in np.array_split(np.arange(3 * RECENT), 100):
        meter.add(logits[part], labels[part], 0.5)
    report = meter.report(100, 200, 0, 3 * RECENT)

    expected = roc_auc_score(labels[-RECENT:], logits[-RECENT:])
    assert report.auc == pytest.approx(expected, abs=1e-6)  # ties may fall either way


def test_a_batch_larger_than_the_window_fits(clock) -> None:
    meter = Meter()

    meter.add(np.ones(3 * RECENT, np.float32), np.ones(3 * RECENT, np.float32), 0.5)

    assert meter.report(1, 2, 0, 1).auc is None


def test_speed_and_eta_follow_the_clock(clock) -> None:
    meter = Meter()
    meter.restart(10, 1000)

    clock[0] += 2
    report = meter.report(20, 60, 0, 3000)

    assert report.samples_per_s == pytest.approx(1000)
    assert report.eta_s == pytest.approx(8)


def test_a_pause_does_not_count_as_slowness(clock) -> None:
    meter = Meter()
    meter.restart(0, 0)
    clock[0] += 1
    meter.report(10, 100, 0, 1000)

    clock[0] += 50
    meter.restart(10, 1000)
    clock[0] += 1
    report = meter.report(20, 100, 0, 2000)

    assert report.samples_per_s == pytest.approx(1000)
    assert meter.rate(2000) == pytest.approx(1000)


def test_reports_come_a_few_times_a_second_and_at_the_end(clock) -> None:
    meter = Meter()
    meter.restart(0, 0)

    given = []
    for step in range(1, 101):
        clock[0] += 0.01
        given.append(meter.report(step, 100, 0, step) is not None)

    assert 4 <= sum(given) <= 7
    assert given[-1]


def test_before_the_first_batch_there_is_nothing_to_divide_by(clock) -> None:
    report = Meter().report(0, 10, 0, 0)

    assert report.auc is None
    assert np.isnan(report.loss)
    assert report.eta_s == float("inf")
