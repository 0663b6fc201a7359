from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import ConfigError
from features.parquet import open_dataset
from features.profile import build_profile
from features.schema import FeatureSet
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.evolve_changes import Changes, compare, with_reasons
from trainer.evolve_layout import evolved_layout
from trainer.job import Job
from trainer.representations.registry import build_layout

FEATURES = {
    "categorical": ["user", "item"],
    "list": ["tags"],
    "dense": ["price"],
    "cross": {"both": ["user", "item"]},
}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder, train=600, valid=200, test=200)
    return folder


def feature_set(job: Job) -> FeatureSet:
    return FeatureSet.build(job.data, job.features, job.feature, job.table)


def changes(folder: Path, data: str = "train/*.parquet", **edits: Any) -> Changes:
    old = clicks_job(features=FEATURES)
    new = clicks_job(**{"features": FEATURES, **edits})
    profile = build_profile(open_dataset("train/*.parquet", folder), feature_set(old), old.table)
    layout = build_layout(feature_set(old), profile, old.table)
    datasets = {"train": open_dataset(data, folder)}
    return compare(old, new, layout, feature_set(old), feature_set(new), profile, datasets)


def outcomes(found: Changes) -> dict[str, str]:
    return {each.name: each.outcome for each in found.features}


def test_an_unchanged_job_keeps_everything(clicks):
    found = changes(clicks)

    assert set(outcomes(found).values()) == {"keeps"}
    assert found.refusals == []
    found.check("runs/old")


def test_new_features_start_cold_and_missing_ones_are_dropped(clicks):
    features = {"categorical": ["who", "item"], "list": ["tags"], "dense": ["price", "cost"]}

    found = changes(
        clicks,
        features=features,
        feature={"who": {"column": "user"}, "cost": {"column": "price"}},
    )

    assert outcomes(found) == {
        "who": "cold",
        "item": "keeps",
        "tags": "keeps",
        "price": "keeps",
        "cost": "cold",
        "user": "dropped",
        "both": "dropped",
    }


@pytest.mark.parametrize(
    ("edits", "refusal"),
    [
        ({"table": {"width": 8}}, "table.width was 4, is 8"),
        ({"table": {"hash_seed": 1}}, "table.hash_seed was 0, is 1"),
        ({"table": {"method": "hash"}}, "table.method was unified, is hash"),
        ({"table": {"optimizer": "adam"}}, "table.optimizer was rowwise_adagrad, is adam"),
        ({"feature": {"user": {"lookups": 3}}}, "user: lookups was 2, is 3"),
        ({"feature": {"user": {"shares": "item"}}}, "user: shares was not set, is item"),
        ({"feature": {"tags": {"pooling": "sum"}}}, "tags: pooling was mean, is sum"),
        ({"feature": {"price": {"log": "log1p"}}}, "price: log was not set, is log1p"),
        ({"feature": {"price": {"bucketize": 4}}}, "price: kind was dense, is bucketized"),
        ({"feature": {"user": {"exact": True}}}, "user: its rows are hashed, and exact is true"),
        (
            {"feature": {"tags": {"exact": False}}},
            "tags: it owns exact rows, and exact is false",
        ),
        (
            {"feature": {"user": {"multiplexed": False}}},
            "user: its rows are in the shared region, and multiplexed is false",
        ),
        (
            {"features": {**FEATURES, "cross": {"both": ["item", "user"]}}},
            "both: parts was user, item, is item, user",
        ),
    ],
)
def test_what_would_read_old_rows_otherwise_is_refused(clicks, edits, refusal):
    found = changes(clicks, **edits)

    assert refusal in found.refusals
    with pytest.raises(ConfigError) as caught:
        found.check("runs/old")
    assert refusal in caught.value.what
    assert "runs/old" in caught.value.what


def test_settings_that_only_count_for_new_tables_or_for_training_may_change(clicks):
    found = changes(
        clicks,
        table={"exact_below": 5, "init_scale": 0.1, "learning_rate": 0.2, "rows": 900},
        train={"batch_size": 7},
        feature={"user": {"column": "user"}},
    )

    assert found.refusals == []


def test_ids_of_another_class_are_refused(clicks):
    (clicks / "words").mkdir()
    table = pq.read_table(clicks / "train" / "0.parquet")
    words = pc.cast(table.column("user"), pa.string())
    pq.write_table(
        table.set_column(table.schema.get_field_index("user"), "user", words),
        clicks / "words" / "0.parquet",
    )

    found = changes(clicks, data="words/*.parquet")

    assert outcomes(found)["user"] == "refused"
    assert outcomes(found)["item"] == "keeps"
    assert any("user" in refusal and "string" in refusal for refusal in found.refusals)


def test_values_that_an_exact_feature_never_had_are_counted(clicks):
    (clicks / "grown").mkdir()
    table = pq.read_table(clicks / "train" / "0.parquet")
    tags = pa.array([[100, 101, 1]] * len(table))
    pq.write_table(
        table.set_column(table.schema.get_field_index("tags"), "tags", tags),
        clicks / "grown" / "0.parquet",
    )
    job = clicks_job(features=FEATURES)
    of = feature_set(job)
    old = build_profile(open_dataset("train/*.parquet", clicks), of, job.table)
    fresh = build_profile(open_dataset("grown/*.parquet", clicks), of, job.table)
    layout = evolved_layout(of, old, job.table, build_layout(of, old, job.table))

    said = {
        each.name: each.reason for each in with_reasons(changes(clicks), layout, fresh).features
    }

    assert said["user"] == "the shared region"
    assert said["tags"] == "exact rows (22); 2 new values read the row of the unseen"
