import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.batches import KeyBatch, KeyColumn
from features.errors import ConfigError, DataError, PlanError
from features.hashed import Hashing
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeaturesSettings, TableSettings
from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.evaluate import load_model
from trainer.representations.registry import build_layout
from trainer.resize import Change, ResizedRows, resized_layout
from trainer.resize_run import resize_run
from trainer.run import Run
from trainer.train import train


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**40), st.integers(2, 64))
def test_a_row_of_a_grown_region_is_one_of_the_copies(mixed: int, rows: int, times: int):
    def row(of: int) -> int:
        return (mixed * of) >> 64

    assert row(times * rows) // times == row(rows)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 2**36), st.integers(2, 64))
def test_the_native_hash_grows_as_the_formula_does(keys: list[int], rows: int, times: int):
    column = np.array(keys, np.uint64)
    small = Hashing.named("user", 3, 0, 0, rows).rows_of(column, None, 1)

    grown = Hashing.named("user", 3, 0, 0, times * rows).rows_of(column, None, 1)

    assert np.array_equal(grown // times, small)


def layout_of(method: str, rows: int = 300, **table: Any) -> Layout:
    settings = TableSettings.model_validate({"rows": rows, "width": 4, "method": method, **table})
    names = FeaturesSettings(categorical=["user", "item"])
    return build_layout(FeatureSet.build(None, names, {}, settings), None, settings)


def vectors(layout: Layout, table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The embedding of every key as both features, by numpy alone."""
    parts = []
    for route in layout.routes:
        column = KeyColumn(keys)
        if route.reader is None:
            rows = table[layout.rows_of(route.name, column)]
            parts.append(rows.swapaxes(0, 1).reshape(len(keys), -1))
        else:
            reading = route.reader.read(column)
            parts.append(route.reader.combine(table[reading.rows], reading.extra))
    return np.concatenate(parts, axis=1)


def changed(old: Layout, new: Layout, change: Change, table: np.ndarray, **of: Any) -> np.ndarray:
    """All rows of the changed table, asked for in uneven ranges."""
    rows = ResizedRows(old, new, change, of.get("optimizer", "sgd"), lambda _, a, b: table[a:b])
    tensor, cuts = (
        of.get("tensor", "weight"),
        sorted({0, 1, new.rows // 3, new.rows // 2, new.rows}),
    )
    blocks = [
        block for first, end in pairwise(cuts) for block in rows.blocks(tensor, 16, first, end)
    ]
    return np.concatenate(blocks)


@pytest.mark.parametrize("method", ["unified", "hash", "hash_embedding", "hashednet"])
@pytest.mark.parametrize("times", [2, 3, 16])
def test_every_vector_of_a_grown_table_is_what_it_was(method: str, times: int):
    old = layout_of(method)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(old.rows, old.width)).astype(np.float32)
    keys = rng.integers(0, 2**63, 5000).astype(np.uint64)
    change = Change("grow", times)

    new = resized_layout(old, change)
    grown = changed(old, new, change, table)

    assert len(grown) == new.rows
    assert new.regions[0].rows == times * old.regions[0].rows
    assert np.array_equal(vectors(new, grown, keys), vectors(old, table, keys))


@pytest.mark.parametrize("method", ["unified", "hash_embedding", "hashednet"])
def test_folding_undoes_growing_with_all_state(method: str):
    old = layout_of(method)
    new = resized_layout(old, Change("grow", 3))
    table = np.random.default_rng(0).normal(size=(old.rows, old.width)).astype(np.float32)

    again = resized_layout(new, Change("fold", 3))

    assert again.to_json() == old.to_json()
    for optimizer, tensor in (("adam", "weight"), ("adam", "momentum1"), ("adam", "momentum2")):
        grown = changed(old, new, Change("grow", 3), table, optimizer=optimizer, tensor=tensor)
        folded = changed(new, again, Change("fold", 3), grown, optimizer=optimizer, tensor=tensor)
        assert np.array_equal(folded, table)


def test_tables_of_a_region_that_are_alike_grow_and_others_are_refused():
    alike = layout_of("pq", rows=300, lookups=3)
    uneven = layout_of("pq", rows=301, lookups=3)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(300, 4)).astype(np.float32)
    keys = rng.integers(0, 2**63, 1000).astype(np.uint64)

    new = resized_layout(alike, Change("grow", 2))
    grown = changed(alike, new, Change("grow", 2), table)

    assert np.array_equal(vectors(new, grown, keys), vectors(alike, table, keys))
    with pytest.raises(PlanError, match="cut into 3 tables of 301 rows"):
        resized_layout(uneven, Change("grow", 2))


@pytest.mark.parametrize(("rows", "lookups", "fold"), [(300, 2, 7), (301, 3, 2), (64, 2, 5)])
@pytest.mark.parametrize("method", ["unified", "pq"])
def test_a_folded_row_is_the_mean_of_the_rows_whose_values_meet_in_it(
    method: str, rows: int, lookups: int, fold: int
):
    old = layout_of(method, rows=rows, lookups=lookups)
    table = np.random.default_rng(0).normal(size=(old.rows, 4)).astype(np.float32)
    change = Change("fold", fold)

    new = resized_layout(old, change)
    folded = changed(old, new, change, table)

    (before,), (after,) = old.regions, new.regions
    for part in range(before.parts):
        (base, size), (first, count) = before.part(part), after.part(part)
        assert count == size // fold
        # Both tables' rows laid on one fine grid of hashes: a plain reference.
        fine = np.repeat(table[base : base + size].astype(np.float64), count, axis=0)
        means = fine.reshape(count, size, 4).mean(axis=1)
        np.testing.assert_allclose(folded[first : first + count], means, atol=1e-6)


def test_sums_of_squares_fold_to_the_largest_and_first_moments_to_the_mean():
    old = layout_of("unified", rows=4)
    new = resized_layout(old, Change("fold", 2))
    state = np.array([1, 5, 2, 0], np.float32)

    def folded(optimizer: str, tensor: str) -> list[float]:
        change = Change("fold", 2)
        return changed(old, new, change, state, optimizer=optimizer, tensor=tensor).tolist()

    assert folded("rowwise_adagrad", "momentum1") == [5, 2]
    assert folded("adam", "momentum2") == [5, 2]
    assert folded("adam", "momentum1") == [3, 1]


@pytest.mark.parametrize(("method", "why"), [("robe", "ring"), ("dhe", "no hash")])
def test_methods_without_a_larger_table_of_the_same_model_are_refused(method: str, why: str):
    layout = layout_of(method, rows=5000)

    with pytest.raises(PlanError, match=why):
        resized_layout(layout, Change("grow", 2))


def test_a_fold_that_leaves_too_few_rows_is_refused():
    with pytest.raises(PlanError, match="fold by less"):
        resized_layout(layout_of("unified", rows=5, lookups=3), Change("fold", 2))


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


@pytest.fixture(scope="module")
def trained(clicks) -> Run:
    """A run that was stopped at step 20, in the middle of its first epoch."""
    job = clicks_job(train={"max_steps": 20}, table={"multiplexed": False, "optimizer": "adam"})
    return train(job, clicks / "trained", clicks).run


def batch(rows: int) -> KeyBatch:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, rows))]).astype(np.int64)
    return KeyBatch(
        num_rows=rows,
        columns={
            "user": KeyColumn(rng.integers(0, 2**63, rows).astype(np.uint64)),
            "item": KeyColumn(rng.integers(0, 2**63, rows).astype(np.uint64)),
            "tags": KeyColumn(rng.integers(0, 12, offsets[-1]).astype(np.uint64), None, offsets),
        },
        matrix=None,
        null_matrix=None,
        dense=rng.normal(size=(rows, 2)).astype(np.float32),
    )


def test_a_grown_run_predicts_bit_for_bit_what_the_old_one_did(trained, tmp_path):
    told = []

    resized = resize_run(
        trained, "last", Change("grow", 4), tmp_path / "grown", lambda *each: told.append(each)
    )

    tensors = {total // resized.new.rows for _, total in told}
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert tensors == {3}  # rows and both moments of Adam
    before, after = load_model(trained, "last"), load_model(Run.open(tmp_path / "grown"), "last")

    assert resized.step == after.step == 20
    regions = {region.name: region.rows for region in resized.old.regions}
    for region in resized.new.regions:
        grows = 1 if region.kind == "exact" else 4
        assert region.rows == grows * regions[region.name]
    many = batch(100_000)
    assert np.array_equal(before.model.predict(many), after.model.predict(many))


def test_all_state_of_the_optimizers_goes_along(trained, tmp_path):
    resize_run(trained, "last", Change("grow", 2), tmp_path / "grown")

    with (
        saving.open_checkpoint(trained.checkpoints, "last") as old,
        saving.open_checkpoint(tmp_path / "grown" / "checkpoints", "last") as new,
    ):
        assert new.tensor_names == old.tensor_names
        for name in old.tensor_names:
            if not name.startswith("table."):
                assert np.array_equal(new.tensor(name), old.tensor(name))
        shared = saving.layout_in(old).regions[0].rows
        for name in ("table.weight", "table.momentum1", "table.momentum2"):
            copies = np.repeat(old.tensor(name)[:shared], 2, axis=0)
            assert np.array_equal(new.tensor(name)[: 2 * shared], copies)
        assert new.content["table"] == old.content["table"]


def test_training_goes_on_from_a_grown_run(clicks, trained, tmp_path):
    from launch.settings import load_job

    folder = tmp_path / "grown"
    job = clicks_job(table={"multiplexed": False, "optimizer": "adam"})
    stopped = train(job, clicks / "stopped", clicks, stop_requested=stop_at_once()).run
    resized = resize_run(stopped, "last", Change("grow", 2), folder)

    result = train(load_job(resized.job), folder, folder)

    assert result.step == 64
    assert result.metrics["valid"].rows == 600
    document = json.loads((folder / "result.json").read_text())
    assert document["table"]["rows"] == resized.new.rows


def stop_at_once():
    calls = [0]

    def stop() -> int | None:
        calls[0] += 1
        return 15 if calls[0] > 40 else None

    return stop


def test_a_folder_that_is_there_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        resize_run(trained, "last", Change("grow", 2), tmp_path)


def test_other_files_are_refused_and_nothing_is_left(tmp_path):
    write_clicks(tmp_path, train=500, valid=100, test=100)
    run = train(clicks_job(train={"epochs": 1}), tmp_path / "run", tmp_path).run
    names = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "train" / "0.parquet").unlink()

    with pytest.raises(DataError, match=r"data\.train"):
        resize_run(run, "last", Change("grow", 2), tmp_path / "grown")

    assert sorted(path.name for path in tmp_path.iterdir()) == names
