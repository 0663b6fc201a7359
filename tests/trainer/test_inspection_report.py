from dataclasses import replace
from pathlib import Path

import pytest

from features.parquet import open_dataset
from tests.trainer.clicks import clicks_job, write_clicks
from tests.trainer.test_report import parsed
from trainer.evaluate import load_model
from trainer.inspection import Inspection, ModelFacts, checkpoint_subject, inspect
from trainer.inspection_report import render
from trainer.saving import open_checkpoint
from trainer.train import train


def inspection(folder: Path, **table: object) -> Inspection:
    """Trains on clicks and inspects the table."""
    write_clicks(folder)
    job = clicks_job(table={"rows": 60, "width": 4, "exact_below": 12, "lookups": 2, **table})
    run = train(job, folder / "run", folder).run
    dataset = open_dataset("train/*.parquet", folder)
    with open_checkpoint(run.checkpoints, "best") as checkpoint:
        return inspect(
            checkpoint_subject(checkpoint),
            dataset,
            "data.train",
            model=ModelFacts.measure(load_model(run), dataset, 500),
            init_scale=job.table.init_scale,
        )


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Inspection:
    return inspection(tmp_path_factory.mktemp("clicks"))


def test_a_page_shows_every_part_and_needs_nothing_else(found) -> None:
    page = parsed(render(found, "written today"))

    for title in (
        "Who shares a row",
        "What comes of it",
        "Use of the rows",
        "Norms",
        "Angles: what the first layers read",
        "Angles: what reaches the output",
        "Worth of the features",
        "Rows needed",
    ):
        assert title in page.text
    for feature in ("user", "item", "tags"):
        assert feature in page.text
    links = [value for name, value in page.attributes if name in ("src", "href")]
    assert links == []
    assert not any("nan" in value for _, value in page.attributes)


def test_what_is_missing_is_said_and_names_are_escaped(found) -> None:
    one = replace(found.collisions[0], feature="<b>user</b>")
    less = replace(
        found,
        name="<i>run</i>",
        collisions=(one,),
        layer_angles="No tower.",
        gradient_angles="No model.",
        worth="No labels.",
        left_out=("query",),
        is_whole=False,
    )

    page = render(less, "")

    text = parsed(page).text
    for sentence in ("No tower.", "No model.", "No labels.", "the first 2,000 rows", "query"):
        assert sentence in text
    assert "<b>user</b>" in text
    assert "<i>run</i>" in text
    assert "<b>user" not in page


def test_a_table_without_hashed_features_has_a_page_too(found) -> None:
    none = replace(found, collisions=(), needs=(), curves=(), apart=("user",))

    text = parsed(render(none, "")).text

    assert "No feature is hashed into rows that values share." in text
    assert "Rows needed" not in text


def test_the_figures_are_plain_json(found) -> None:
    tree = replace(found, worth="No labels.").to_json()

    assert tree["worth"] == {"missing": "No labels."}
    assert tree["gradient_angles"]["num_pairs"] == found.gradient_angles.num_pairs
    assert tree["collisions"][0]["within"].keys() == {"forecast", "values", "reads"}


@pytest.mark.parametrize(
    ("table", "hashed", "has_angles"),
    [
        ({"method": "pq"}, ["user", "item"], True),
        ({"hot_rows": 0.2}, ["user", "item"], True),
        ({"frequent_values": 15}, ["user", "item"], True),
        ({"method": "hash_embedding"}, ["user", "item"], True),
        ({"method": "robe", "width": 8}, ["user", "item"], False),
        ({"method": "hashednet", "width": 8}, ["user", "item"], False),
        ({"method": "qr"}, [], False),
        ({"method": "tt", "rows": 400}, [], False),
        ({"method": "dhe", "rows": 400}, [], False),
        ({"method": "exact", "rows": None}, [], False),
    ],
)
def test_every_method_has_what_makes_sense_for_it(tmp_path, table, hashed, has_angles) -> None:
    found = inspection(tmp_path, **table)

    text = parsed(render(found, "")).text

    assert [one.feature for one in found.collisions] == hashed
    assert sum(use.reads for use in found.regions) > 0
    assert not isinstance(found.worth, str)
    assert isinstance(found.gradient_angles, str) != has_angles
    assert isinstance(found.layer_angles, str) != has_angles
    assert "Norms" in text
