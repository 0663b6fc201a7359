"""Lookups that a job leaves open: chosen once, recorded, and the same for whoever opens the run."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import ConfigError, SnapshotError
from features.parquet import open_dataset
from features.profile import build_profile
from features.settings import FeatureSettings
from tests.features.statistics_of import Seen, counted, known
from tests.ranks import run_ranks
from tests.trainer.clicks import clicks_job, write_clicks
from trainer import saving
from trainer.evaluate import load_model
from trainer.lookups import by_cardinality, feature_set_of, foreseen, with_lookups
from trainer.pilot import by_pilot, hand_out
from trainer.plan import make_plan
from trainer.run import Run
from trainer.train import train

# No exact rows: 60 users, 30 items and 9 tags in 300 rows.
OPEN = {"rows": 300, "width": 4, "exact_below": 0}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


def job_of(lookups, **changes):
    return clicks_job(table={**OPEN, "lookups": lookups}, **changes)


def lookups_of(run: Run) -> dict[str, int]:
    """What the layout of a run's checkpoint says."""
    with saving.open_checkpoint(run.checkpoints, "last") as bundle:
        layout = saving.layout_in(bundle)
    return {route.name: len(route.lookups) for route in layout.routes}


def test_a_feature_gets_as_many_lookups_as_its_cardinality_needs():
    # p = 1 - (1 - 1/300)^(N - 1), and the smallest c with p^c <= 0.01 is that of ...
    expected = {3: 1, 25: 2, 60: 3, 100: 4, 200: 2, 30_000: 2}  # p .007 .077 .18 .28 .49 1

    for cardinality, lookups in expected.items():
        seen = Seen({"user": counted(cardinality), "item": counted(9), "tags": counted(9)})
        assert by_cardinality(job_of("auto"), seen)["user"] == lookups


def test_exact_features_have_one_and_features_that_say_how_many_keep_it():
    seen = Seen({"user": counted(30_000), "item": known(range(25)), "tags": counted(30_000)})
    job = job_of("auto", feature={"tags": FeatureSettings(lookups=3)})
    job = job.model_copy(update={"table": job.table.model_copy(update={"exact_below": 30})})

    changed = with_lookups(job, by_cardinality(job, seen))

    counts = {one.name: one.num_lookups for one in feature_set_of(changed).features}
    assert counts == {"user": 2, "item": 1, "tags": 3}
    assert by_cardinality(changed, seen) == {}


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1
    )
)
def test_lookups_are_handed_out_within_their_bounds(features):
    worth = {name: worth for name, (worth, _) in features.items()}
    meets = {name: meets for name, (_, meets) in features.items()}

    chosen = hand_out(worth, meets)

    assert chosen.keys() == features.keys()
    assert all(1 <= count <= 4 for count in chosen.values())
    assert sum(chosen.values()) <= 2 * len(chosen)


def test_who_is_worth_most_and_collides_most_gets_most_lookups():
    worth = {"a": 0.3, "b": 0.02, "c": 0.3, "d": 0.0}
    meets = {"a": 0.8, "b": 0.8, "c": 0.001, "d": 0.8}

    assert hand_out(worth, meets) == {"a": 4, "b": 2, "c": 1, "d": 1}


def test_the_same_choice_costs_nothing_of_the_table(clicks):
    job = job_of("auto")
    profile = build_profile(open_dataset("train/*.parquet", clicks), feature_set_of(job), job.table)

    plan = make_plan(job, feature_set_of(job), profile)

    assert plan.rows == 300
    assert {one.name: one.num_lookups for one in plan.features} == by_cardinality(job, profile)
    recorded = {"user": 1, "item": 2, "tags": 3}
    assert feature_set_of(foreseen(job_of("pilot"), profile, recorded))["tags"].num_lookups == 3


@pytest.mark.parametrize("lookups", ["auto", "pilot"])
def test_the_numbers_are_chosen_once_and_stand_in_the_run(clicks, tmp_path, lookups):
    job, path = job_of(lookups), tmp_path / "run"

    assert train(job, path, clicks, stop_requested=stop_after(60)).signal == 15
    begun = Run.open(path)
    result = train(job, path, clicks)

    assert begun.lookups.keys() == {"user", "item", "tags"}
    assert Run.open(path).lookups == result.run.lookups == begun.lookups
    assert lookups_of(result.run) == begun.lookups
    assert sum(begun.lookups.values()) <= 3 * (4 if lookups == "auto" else 2)
    counts = {one.name: one.num_lookups for one in load_model(begun).feature_set.features}
    assert counts == begun.lookups
    whole = train(job, tmp_path / "whole", clicks)
    assert whole.metrics == result.metrics
    assert whole.run.digest == result.run.digest


def stop_after(polls: int):
    left = [polls]

    def stop() -> int | None:
        left[0] -= 1
        return 15 if left[0] < 0 else None

    return stop


def test_a_pilot_that_is_stopped_leaves_no_folder(clicks, tmp_path):
    profiled = 8  # row groups

    result = train(
        job_of("pilot"), tmp_path / "run", clicks, stop_requested=stop_after(profiled + 5)
    )

    assert (result.signal, result.step) == (15, 0)
    assert not (tmp_path / "run").exists()


def test_a_pilot_repeats_itself(clicks):
    job = job_of("pilot")
    dataset = open_dataset("train/*.parquet", clicks)
    profile = build_profile(dataset, feature_set_of(job), job.table)

    assert by_pilot(job, dataset, profile) == by_pilot(job, dataset, profile)


def _train(ranks, folder: Path, path: Path) -> dict[str, int]:
    return dict(train(job_of("pilot"), path, folder, ranks=ranks).run.lookups)


def test_all_ranks_take_what_the_first_has_chosen(clicks, tmp_path):
    one = train(job_of("pilot"), tmp_path / "one", clicks)

    assert run_ranks(2, _train, clicks, tmp_path / "two") == [one.run.lookups] * 2


def test_a_run_that_chose_is_not_gone_on_with_by_another_job(clicks, tmp_path):
    train(job_of("auto"), tmp_path, clicks, stop_requested=stop_after(60))

    with pytest.raises(ConfigError, match=r"table\.lookups"):
        train(job_of(3), tmp_path, clicks)


def test_numbers_that_were_edited_afterwards_are_refused(clicks, tmp_path):
    train(job_of("auto"), tmp_path, clicks, stop_requested=stop_after(60))
    tree = json.loads((tmp_path / "job.json").read_text())
    tree["lookups"]["user"] += 1
    (tmp_path / "job.json").write_text(json.dumps(tree))

    with pytest.raises(SnapshotError, match="digest"):
        Run.open(tmp_path)


def test_a_job_that_carries_on_keeps_what_was_chosen(clicks, tmp_path):
    parent = train(job_of("pilot"), tmp_path / "parent", clicks)
    child = job_of("pilot", run={"parent": str(tmp_path / "parent"), "checkpoint_every": 10})

    carried = train(child, tmp_path / "child", clicks)

    assert carried.run.lookups == parent.run.lookups
    assert lookups_of(carried.run) == lookups_of(parent.run)


@pytest.mark.parametrize("method", ["hash", "pq", "qr", "exact"])
def test_other_methods_want_a_number(method):
    with pytest.raises(ConfigError, match=r'table\.lookups is "auto"'):
        feature_set_of(clicks_job(table={**OPEN, "method": method, "lookups": "auto"}))
