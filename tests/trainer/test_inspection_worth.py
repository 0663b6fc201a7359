from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from features.parquet import open_dataset
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.evaluate import TrainedModel, load_model
from trainer.inspection_worth import Worth, measure_worth, spread_batches, tower_inputs
from trainer.train import train


@pytest.fixture(scope="module", params=["unified", "hash_embedding"])
def trained(request, tmp_path_factory) -> tuple[TrainedModel, Path]:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    job = clicks_job(
        data={"weight": "weight"}, table={"method": request.param}, train={"epochs": 6}
    )
    return load_model(train(job, folder / "run", folder).run), folder


def test_worth_is_the_auc_with_means_in_the_place_of_a_feature(trained) -> None:
    model, folder = trained
    dataset = open_dataset("test/*.parquet", folder)

    worth = measure_worth(model, dataset)

    assert isinstance(worth, Worth)
    batches = list(spread_batches(model, dataset, 10**6))
    labels = np.concatenate([batch.label for batch in batches])
    weights = np.concatenate([batch.weight for batch in batches])
    with torch.no_grad():
        inputs = [tower_inputs(model.model, batch) for batch in batches]
        embeddings = torch.cat([each for each, _ in inputs])
        dense = torch.cat([each for _, each in inputs])

        def auc(embeddings: torch.Tensor, dense: torch.Tensor) -> float:
            scores = model.model.tower(embeddings, dense).numpy()
            return roc_auc_score(labels, scores, sample_weight=weights)

        whole = auc(embeddings, dense)
        expected = {}
        for route in model.model.layout.routes:
            without = embeddings.clone()
            columns = slice(route.column, route.column + route.width_total)
            without[:, columns] = embeddings[:, columns].mean(0)
            expected[route.name] = whole - auc(without, dense)
        expected["(dense columns)"] = whole - auc(embeddings, dense.mean(0).expand_as(dense))
    assert worth.rows == 600
    assert worth.auc == pytest.approx(whole, abs=1e-9)
    losses = {one.feature: one.auc_loss for one in worth.features}
    assert losses == pytest.approx(expected, abs=1e-5)
    # The labels were made of users, items and prices.
    errors = {one.feature: one.error for one in worth.features}
    assert losses["user"] > 2 * errors["user"]
    assert losses["tags"] < losses["user"] / 2


def test_the_error_is_that_of_rows_drawn_anew(trained) -> None:
    model, folder = trained
    dataset = open_dataset("test/*.parquet", folder)
    rows = pq.read_table(folder / "test")
    rng = np.random.default_rng(0)
    drawn = folder / "drawn"
    drawn.mkdir(exist_ok=True)
    losses = []
    for _ in range(40):
        pq.write_table(rows.take(rng.integers(0, 600, 600)), drawn / "rows.parquet")
        again = measure_worth(model, open_dataset("rows.parquet", drawn))
        assert isinstance(again, Worth)
        losses.append([one.auc_loss for one in again.features])

    worth = measure_worth(model, dataset)

    assert isinstance(worth, Worth)
    spread = dict(zip((one.feature for one in worth.features), np.std(losses, 0), strict=True))
    for one in worth.features:
        assert one.error == pytest.approx(spread[one.feature], rel=0.5)


def test_rows_are_spread_over_the_data(trained) -> None:
    model, folder = trained
    dataset = open_dataset("train/*.parquet", folder)

    some = list(spread_batches(model, dataset, 500))

    # Row groups of 250 are the batches here: every fourth of eight.
    assert [batch.num_rows for batch in some] == [250, 250]
    whole = list(spread_batches(model, dataset, 10**6))
    assert sum(batch.num_rows for batch in whole) == 2000
    assert np.array_equal(some[0].label, whole[0].label)
    assert not np.array_equal(some[1].label, whole[1].label)


def test_rows_of_one_class_have_no_auc(trained, tmp_path) -> None:
    model, folder = trained
    rows = pq.read_table(folder / "test" / "0.parquet")
    pq.write_table(rows.filter(rows["click"].to_numpy() == 0), tmp_path / "rows.parquet")

    worth = measure_worth(model, open_dataset("rows.parquet", tmp_path))

    assert worth == "The labels of the rows are all alike: there is no AUC."
