from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from features.errors import SnapshotError
from features.parquet import open_dataset
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.evaluate import evaluate, load_model, predict
from trainer.run import Run
from trainer.signals import Interrupted
from trainer.totals import Together
from trainer.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    job = clicks_job(data={"weight": "weight"}, run={"checkpoint_every": 20, "keep": 5})
    return train(job, folder / "run", folder).run


@pytest.fixture(scope="module")
def labels(run) -> tuple[np.ndarray, np.ndarray]:
    tables = [pq.read_table(run.base / "test" / f"{i}.parquet") for i in range(2)]
    clicks = np.concatenate([table["click"].to_numpy() for table in tables])
    return clicks, np.concatenate([table["weight"].to_numpy() for table in tables])


def test_evaluation_repeats_the_metrics_of_the_run(run, tmp_path) -> None:
    trained = load_model(run)

    metrics = evaluate(
        trained.model,
        open_dataset("test/*.parquet", run.base),
        trained.feature_set,
        trained.profile,
        scratch=tmp_path,
        buffer=2000,
    )

    assert metrics.to_json() == run.result()["metrics"]["test"]


def test_predictions_are_row_aligned_and_give_scikit_learns_metrics(run, labels) -> None:
    trained = load_model(run)
    dataset = open_dataset("test/*.parquet", run.base)

    parts = list(predict(trained.model, dataset, trained.feature_set, trained.profile))

    clicks, weights = labels
    scores = np.concatenate([part.scores for part in parts])
    starts = [(part.file, part.first_row) for part in parts]
    expected = run.result()["metrics"]["test"]
    assert starts == sorted(starts)
    assert starts[0] == (0, 0)
    assert sum(len(part.scores) for part in parts if part.file == 1) == 300
    assert expected["auc"] == pytest.approx(
        roc_auc_score(clicks, scores, sample_weight=weights), abs=1e-12
    )
    assert expected["log_loss"] == pytest.approx(
        log_loss(clicks, scores, sample_weight=weights), rel=1e-12
    )


def test_predictions_need_no_labels(run, tmp_path) -> None:
    trained = load_model(run)
    table = pq.read_table(run.base / "test" / "0.parquet")
    # The same row groups: a tower's matrix products may round otherwise in other batches.
    bare_table = table.drop_columns(["click", "weight"])
    pq.write_table(bare_table, tmp_path / "new.parquet", row_group_size=250)

    bare = list(
        predict(
            trained.model,
            open_dataset("new.parquet", tmp_path),
            trained.feature_set,
            trained.profile,
        )
    )
    full = list(
        predict(
            trained.model,
            open_dataset("test/0.parquet", run.base),
            trained.feature_set,
            trained.profile,
        )
    )

    assert np.array_equal(
        np.concatenate([part.scores for part in bare]),
        np.concatenate([part.scores for part in full]),
    )


@pytest.mark.parametrize("which", ["best", "last", 20])
def test_models_are_loaded_by_name_and_step(run, which) -> None:
    result = run.result()

    trained = load_model(run, which)

    assert trained.step == {"best": result["best_step"], "last": 64, 20: 20}[which]
    assert not trained.model.tower.training
    assert trained.model.engine.optimizer == "sgd"


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(run) -> None:
    with pytest.raises(SnapshotError, match=r"no checkpoint of step 7; it holds: step-0000000020"):
        load_model(run, 7)


def test_a_run_without_checkpoint_is_refused(run, tmp_path) -> None:
    for name in ("job.json", "profile.json"):
        Path(tmp_path / name).write_bytes((run.path / name).read_bytes())

    with pytest.raises(SnapshotError, match="holds no checkpoint"):
        load_model(Run.open(tmp_path))


def test_an_evaluation_stops_when_asked(run, tmp_path) -> None:
    trained = load_model(run)
    rows = []

    with pytest.raises(Interrupted):
        evaluate(
            trained.model,
            open_dataset("test/*.parquet", run.base),
            trained.feature_set,
            trained.profile,
            scratch=tmp_path,
            buffer=2000,
            on_rows=rows.append,
            together=Together.alone(lambda: 15),
        )

    assert len(rows) == 1
