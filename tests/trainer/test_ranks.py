"""The same job on one rank and on several: what must be equal, and how nearly."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from features.parquet import open_dataset
from tests.ranks import run_ranks
from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.evaluate import evaluate, load_model, predict
from trainer.journal import WALL_CLOCK, read_journal
from trainer.run import Run
from trainer.totals import Together
from trainer.train import train

JOB = {"data": {"streams": 5}, "run": {"checkpoint_every": 20}}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


def _train(ranks, folder, name, changes):
    result = train(clicks_job(**changes), folder / name, folder, ranks=ranks)
    return result.step, {part: m.to_json() for part, m in result.metrics.items()}


def _tower_digest(run: Path) -> tuple[str, dict[str, np.ndarray]]:
    with saving.open_checkpoint(run / "checkpoints", "last") as bundle:
        arrays = {name: np.array(bundle.tensor(name)) for name in bundle.tensor_names}
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest(), arrays


@pytest.fixture(scope="module")
def alone(clicks):
    changes = {**JOB}
    result = train(clicks_job(**changes), clicks / "alone", clicks)
    return result, _tower_digest(clicks / "alone")[1]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_run_on_many_ranks_is_that_of_one(clicks, alone, world_size):
    name = f"run{world_size}"
    results = run_ranks(world_size, _train, clicks, name, JOB)

    one, tensors = alone
    assert all(each == results[0] for each in results)
    step, metrics = results[0]
    assert step == one.step
    for part, expected in one.metrics.items():
        assert metrics[part]["rows"] == expected.rows
        assert metrics[part]["auc"] == pytest.approx(expected.auc, abs=3e-4)
    for key, array in _tower_digest(clicks / name)[1].items():
        np.testing.assert_allclose(array, tensors[key], atol=2e-3, err_msg=key)
    journal = read_journal(clicks / name / "metrics.jsonl")
    expected_journal = read_journal(clicks / "alone" / "metrics.jsonl")
    assert [(j["kind"], j["step"], j["samples"]) for j in journal] == [
        (j["kind"], j["step"], j["samples"]) for j in expected_journal
    ]
    result = json.loads((clicks / name / "result.json").read_text())
    assert result["world_size"] == world_size


def test_a_run_on_many_ranks_repeats_itself_bit_by_bit(clicks):
    outcomes = []
    for name in ("first", "again"):
        run_ranks(3, _train, clicks, name, JOB)
        journal = [
            {key: value for key, value in line.items() if key not in WALL_CLOCK}
            for line in read_journal(clicks / name / "metrics.jsonl")
        ]
        outcomes.append((_tower_digest(clicks / name)[0], journal))

    assert outcomes[0] == outcomes[1]


def _stop_one(ranks, folder, name, stopper):
    polls = iter(range(10**6))

    def stop():
        return 15 if ranks.rank == stopper and next(polls) > 12 else None

    result = train(clicks_job(**JOB), folder / name, folder, ranks=ranks, stop_requested=stop)
    return result.signal, result.step


@pytest.mark.parametrize("stopper", [0, 1])
def test_a_signal_to_one_rank_stops_all_after_a_checkpoint(clicks, stopper):
    name = f"stopped{stopper}"
    results = run_ranks(2, _stop_one, clicks, name, stopper)

    assert len(set(results)) == 1
    signal, step = results[0]
    assert signal == 15
    with saving.open_checkpoint(clicks / name / "checkpoints", "last") as bundle:
        assert saving.state_in(bundle).step == step
    # Goes on with another number of ranks, to where the uninterrupted run ends.
    end = run_ranks(3, _train, clicks, name, JOB)[0]
    whole = run_ranks(2, _train, clicks, f"whole{stopper}", JOB)[0]
    assert end[0] == whole[0]
    assert end[1]["test"]["auc"] == pytest.approx(whole[1]["test"]["auc"], abs=3e-4)


def _look(ranks, folder, scratch):
    run = Run.open(folder / "alone")
    trained = load_model(run, "last", ranks)
    dataset = open_dataset("test/*.parquet", folder)
    metrics = evaluate(
        trained.model,
        dataset,
        trained.feature_set,
        trained.profile,
        scratch=scratch,
        buffer=1024,
        together=Together(ranks, lambda: None),
    )
    scores = [
        (p.file, p.first_row, p.scores)
        for p in predict(trained.model, dataset, trained.feature_set, trained.profile, ranks)
    ]
    return metrics, scores


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_evaluate_and_predict_as_one_process_does(clicks, alone, tmp_path, world_size):
    from sharding.ranks import Ranks

    expected, scores = _look(Ranks.alone(), clicks, tmp_path)

    results = run_ranks(world_size, _look, clicks, tmp_path)

    assert all(metrics == expected for metrics, _ in results)
    assert all(not found for _, found in results[1:])
    found = results[0][1]
    assert [f[:2] for f in found] == [s[:2] for s in scores]
    for (_, _, a), (_, _, b) in zip(found, scores, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rank_without_rows_neither_hangs_nor_changes_anything(clicks):
    # Three ranks, three streams; the batch of two rows leaves the third rank nothing at a time.
    job = {"data": {"streams": 3}, "train": {"batch_size": 2, "max_steps": 30}}
    results = run_ranks(3, _train, clicks, "sparse", job)
    expected = train(clicks_job(**job), clicks / "sparse-alone", clicks)

    assert results[0][0] == expected.step == 30
    assert results[0][1]["test"]["auc"] == pytest.approx(expected.metrics["test"].auc, abs=3e-4)


def _refused(ranks, folder):
    try:
        train(clicks_job(data={"streams": 1}), folder / "refused", folder, ranks=ranks)
    except Exception as exc:  # noqa: BLE001 its text is looked at
        return str(exc)
    return None


def test_more_ranks_than_streams_are_refused(clicks):
    for text in run_ranks(2, _refused, clicks):
        assert "data.streams is 1, but there are 2 ranks" in text
    assert not (clicks / "refused").exists()
