"""Runs that carry on from others: with new features, without old ones, on new data."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import ConfigError, SnapshotError
from features.parquet import open_dataset
from tests.ranks import run_ranks
from tests.trainer.clicks import clicks_job, write_clicks
from tests.trainer.test_train import Watcher, stop_after
from trainer import saving
from trainer.evaluate import load_model, predict
from trainer.job import Job
from trainer.run import Run
from trainer.train import train

FEW = {"max_steps": 6, "batch_size": 128}
ALL = {"keep": 100, "checkpoint_every": 10, "tensorboard": False}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder, train=1200, valid=300, test=300)
    return folder


def job(parent: str | None = None, **changes: Any) -> Job:
    parts = {"train": FEW, "run": {**ALL, "parent": parent}}
    return clicks_job(**{**parts, **changes})


def scores(run: Run, which: str | int, folder: Path) -> np.ndarray:
    trained = load_model(run, which)
    dataset = open_dataset("valid/*.parquet", folder)
    found = predict(trained.model, dataset, trained.feature_set, trained.profile)
    return np.concatenate([rows.scores for rows in found])


def tensors(run: Run, which: str | int) -> dict[str, np.ndarray]:
    with saving.open_checkpoint(run.checkpoints, which) as bundle:
        return {name: np.array(bundle.tensor(name)) for name in bundle.tensor_names}


TOWERS = [
    {"kind": "mlp"},
    {"kind": "mlp", "hidden": []},
    {"kind": "dcnv2"},
    {"kind": "dcnv2", "hidden": []},
    {"kind": "dcnv2", "structure": "parallel"},
    {"kind": "dcnv2", "structure": "parallel", "hidden": [], "low_rank": 3},
    {"kind": "dcnv2", "low_rank": 3},
    {"kind": "dlrm"},
    {"kind": "dlrm", "hidden": [], "projection": 5},
]


@pytest.mark.parametrize("number", range(len(TOWERS)))
def test_the_first_predictions_with_new_features_are_those_of_the_old_model(clicks, number):
    tower = {"hidden": [8, 5], "bottom": [4], **TOWERS[number]}
    old = {"categorical": ["user", "item"], "list": [], "dense": ["price"]}
    # In front, between and behind, an exact one, a cross and a dense one among them.
    new = {
        "categorical": ["weekday", "user", "item"],
        "list": ["tags"],
        "dense": ["dearness", "price"],
        "cross": {"both": ["user", "item"]},
    }
    columns = {"weekday": {"column": "item"}, "dearness": {"column": "price", "log": "log1p"}}
    first = train(job(features=old, tower=tower), clicks / f"old{number}", clicks).run

    second = train(
        job(
            f"old{number}",
            features=new,
            feature=columns,
            tower=tower,
            table={"rows": 400},
        ),
        clicks / f"new{number}",
        clicks,
    ).run

    before, after = scores(first, "last", clicks), scores(second, 0, clicks)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    # And the new features learn.
    assert np.abs(scores(second, "last", clicks) - before).max() > 1e-3
    weights = tensors(second, "last")
    if number == 0:
        assert np.abs(weights["tower.deep.layers.0.weight"][:, :8]).max() > 0


@pytest.fixture(scope="module")
def parent(clicks) -> Run:
    table = {"optimizer": "adam", "multiplexed": False}
    return train(job(table=table), clicks / "parent", clicks).run


def test_without_changes_the_model_is_taken_over_to_the_last_bit(clicks, parent):
    table = {"optimizer": "adam", "multiplexed": False}

    child = train(job("parent", table=table), clicks / "same", clicks).run

    assert np.array_equal(scores(child, 0, clicks), scores(parent, "best", clicks))
    before, after = tensors(parent, "best"), tensors(child, 0)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert np.array_equal(after[name], array), name
    with saving.open_checkpoint(child.checkpoints, 0) as bundle:
        assert saving.state_in(bundle).epoch == 0
        assert bundle.content["table"]["step"] == 6


def test_rows_and_state_of_kept_regions_are_copied_and_new_ones_start_fresh(clicks, parent):
    features = {"categorical": ["item", "who"], "list": ["tags"], "dense": ["price"]}
    table = {"optimizer": "adam", "multiplexed": False, "rows": 500}

    child = train(
        job("parent", features=features, feature={"who": {"column": "user"}}, table=table),
        clicks / "regions",
        clicks,
    ).run

    before, after = tensors(parent, "best"), tensors(child, 0)
    with (
        saving.open_checkpoint(parent.checkpoints, "best") as one,
        saving.open_checkpoint(child.checkpoints, 0) as other,
    ):
        old = {region.name: region for region in saving.layout_in(one).regions}
        new = {region.name: region for region in saving.layout_in(other).regions}
    assert set(new) == {*old, "feature:who"}
    for name in ("table.weight", "table.momentum1", "table.momentum2"):
        for region in old.values():
            now = new[region.name]
            assert now.rows == region.rows
            assert np.array_equal(
                after[name][now.base : now.base + now.rows],
                before[name][region.base : region.base + region.rows],
            )
    who = new["feature:who"]
    fresh = after["table.weight"][who.base : who.base + who.rows]
    assert 0 < np.abs(fresh).max() <= 0.05
    assert not after["table.momentum2"][who.base : who.base + who.rows].any()


def test_what_the_parent_knew_of_its_features_stays_though_the_data_is_other(clicks, parent):
    table = {"optimizer": "adam", "multiplexed": False, "rows": 500}
    features = {"categorical": ["user", "item", "who"], "list": ["tags"], "dense": ["price"]}

    child = train(
        job(
            "parent",
            data={**clicks_job().data.model_dump(), "train": "valid/*.parquet"},
            features=features,
            feature={"who": {"column": "user"}},
            table=table,
        ),
        clicks / "other",
        clicks,
    ).run

    before, after = parent.profile(), child.profile()
    assert (before.rows, after.rows) == (1200, 300)
    assert after.data_digest != before.data_digest
    assert after.dense == before.dense
    assert after.categorical["user"].rows == 1200
    assert after.categorical["who"].rows == 300


def test_a_dropped_feature_takes_its_columns_along(clicks, parent):
    table = {"optimizer": "adam", "multiplexed": False}
    features = {"categorical": ["item"], "list": [], "dense": ["price"]}

    child = train(job("parent", features=features, table=table), clicks / "fewer", clicks).run

    before, after = tensors(parent, "best"), tensors(child, 0)
    weight = before["tower.cross.0.full.weight"]
    # user 0-7, item 8-15, tags 16-23, price 24-25
    kept = [*range(8, 16), 24, 25]
    assert np.array_equal(after["tower.cross.0.full.weight"], weight[np.ix_(kept, kept)])
    moment = before["optimizer.exp_avg.cross.0.full.weight"]
    assert np.array_equal(
        after["optimizer.exp_avg.cross.0.full.weight"], moment[np.ix_(kept, kept)]
    )


def test_another_tower_starts_fresh_and_says_so(clicks, parent):
    watcher = Watcher()
    table = {"optimizer": "adam", "multiplexed": False}

    train(
        job("parent", table=table, tower={"hidden": [4]}),
        clicks / "tower",
        clicks,
        progress=watcher,
    )

    (note,) = [note for note in watcher.notes if note.startswith("carrying on")]
    assert "the tower starts fresh: tower.hidden was [16], is [4]" in note


def test_what_cannot_carry_on_is_refused_and_nothing_is_written(clicks, parent):
    table = {"optimizer": "adam", "multiplexed": False, "width": 5}

    with pytest.raises(ConfigError, match="width was 4, is 5; user: lookups was 2, is 3"):
        train(
            job("parent", table=table, feature={"user": {"lookups": 3}}),
            clicks / "refused",
            clicks,
        )

    assert not (clicks / "refused").exists()


def test_once_begun_a_run_needs_its_parent_no_more(clicks, parent):
    table = {"optimizer": "adam", "multiplexed": False}
    shutil.copytree(parent.path, clicks / "copy")
    child = job("copy", table=table)
    whole = train(child, clicks / "whole", clicks)
    stopped = train(child, clicks / "stopped", clicks, stop_requested=stop_after(8))
    assert stopped.signal == 15

    shutil.rmtree(clicks / "copy")
    result = train(child, clicks / "stopped", clicks)

    assert result.step == whole.step
    assert result.metrics == whole.metrics


def test_a_checkpoint_of_a_run_is_carried_on_by_its_path(clicks, parent):
    table = {"optimizer": "adam", "multiplexed": False}

    child = train(
        job("parent/checkpoints/step-0000000006", table=table), clicks / "by-path", clicks
    ).run

    assert np.array_equal(scores(child, 0, clicks), scores(parent, 6, clicks))
    with pytest.raises(ConfigError, match="neither a run nor a checkpoint"):
        train(job("nowhere", table=table), clicks / "none", clicks)
    with pytest.raises(SnapshotError, match="no checkpoint of step 9"):
        train(job("parent/checkpoints/step-0000000009", table=table), clicks / "none", clicks)


def _carry_on(ranks, folder: Path, name: str) -> int:
    table = {"optimizer": "adam", "multiplexed": False, "rows": 500}
    features = {"categorical": ["item", "who"], "list": ["tags"], "dense": ["price"]}
    return train(
        job("parent", features=features, feature={"who": {"column": "user"}}, table=table),
        folder / name,
        folder,
        ranks=ranks,
    ).step


def test_two_ranks_take_over_what_one_does(clicks, parent):
    assert run_ranks(2, _carry_on, clicks, "ranks2") == [6, 6]
    assert run_ranks(1, _carry_on, clicks, "ranks1") == [6]

    one, two = (tensors(Run.open(clicks / name), 0) for name in ("ranks1", "ranks2"))

    assert one.keys() == two.keys()
    for name, array in one.items():
        assert np.array_equal(two[name], array), name


def test_lookups_that_were_chosen_once_are_carried_on(clicks):
    features = {"categorical": ["user", "item"], "list": ["tags"], "dense": ["price"]}
    more = {**features, "categorical": ["user", "who", "item"]}
    who = {"who": {"column": "user"}}
    table = {"lookups": "auto"}

    old = train(job(features=features, table=table), clicks / "auto", clicks).run
    new = train(job("auto", features=more, feature=who, table=table), clicks / "auto2", clicks).run

    assert old.lookups is not None
    assert new.lookups == {**old.lookups, "who": 2}
    np.testing.assert_allclose(
        scores(new, 0, clicks), scores(old, "last", clicks), rtol=0, atol=1e-6
    )
