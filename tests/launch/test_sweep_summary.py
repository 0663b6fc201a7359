import json
import re
from html.parser import HTMLParser

import pytest

from features.errors import PlanError, TrainingError
from launch.settings import parse_job
from launch.sweep.outcome import present
from launch.sweep.record import read_records
from launch.sweep.scatter import tick_bytes, tick_text
from launch.sweep.store import Store
from launch.sweep.summary import (
    comparisons,
    front,
    group_records,
    job_lines,
    missing,
    recommended,
)
from tests.launch.sweeps import record

# By size: a good small one, a worse larger one, the best, as good as the best and larger.
RECORDS = [
    *(record(auc, 1000, budget="1 kB", seed=k) for k, auc in enumerate((0.80, 0.81, 0.82))),
    *(record(auc, 2000, budget="2 kB", seed=k) for k, auc in enumerate((0.79, 0.80, 0.81))),
    *(record(auc, 4000, budget="4 kB", seed=k) for k, auc in enumerate((0.83, 0.84, 0.85))),
    *(record(auc, 8000, budget="8 kB", seed=k) for k, auc in enumerate((0.83, 0.84, 0.85))),
]


def budgets(groups):
    return [group.setting.budget for group in groups]


def test_seeds_of_a_setting_are_one_group_with_mean_and_spread():
    groups = group_records(RECORDS)

    assert budgets(groups) == ["1 kB", "2 kB", "4 kB", "8 kB"]
    assert groups[0].auc.count == 3
    assert groups[0].auc.mean == pytest.approx(0.81)
    assert groups[0].auc.std == pytest.approx(0.01)


def test_the_front_holds_what_no_table_as_small_beats():
    assert budgets(front(group_records(RECORDS))) == ["1 kB", "4 kB"]


@pytest.mark.parametrize(("loss", "budget"), [(0, "4 kB"), (0.029, "4 kB"), (0.031, "1 kB")])
def test_the_cheapest_within_the_loss_is_recommended(loss, budget):
    assert recommended(group_records(RECORDS), loss).setting.budget == budget


def test_dictionaries_and_codebooks_count_and_the_tower_does_not():
    (group,) = group_records([record(0.8, 100, dictionary_bytes=20, codebook_bytes=3)])

    assert group.embedding_bytes == 123


def test_multiplexing_is_compared_where_all_else_is_equal():
    per_feature = [
        record(auc, 1000, multiplexed=False, seed=k) for k, auc in enumerate((0.7, 0.72))
    ]
    coded = [record(0.8, 500, codec="int8"), record(0.7, 500, codec="int8", multiplexed=False)]
    alone = [record(0.9, method="exact", multiplexed=None, budget=None)]

    (pair,) = comparisons(group_records([*RECORDS, *per_feature, *coded, *alone]))

    assert (pair.multiplexed.kind, pair.per_feature.kind) == ("MX", "PF")
    assert pair.welch.difference == pytest.approx(0.10)
    assert 0 < pair.welch.p < 0.05


def test_seeds_without_a_result_are_told_and_left_out_of_the_mean():
    failed = record(None, status="failed", reason="a worker died", seed=3)

    group = group_records([*RECORDS[:3], failed])[0]

    assert (group.status, group.num_missing, group.auc.count) == ("done", 1, 3)


def test_codecs_of_a_table_that_does_not_exist_are_not_missing_as_well():
    groups = group_records(
        [
            record(None, budget="1 B"),
            record(None, budget="1 B", codec="int8"),
            record(0.8),
            record(None, codec="prefix:1+int8", reason="readers"),
        ]
    )

    assert [(each.setting.budget, each.codec) for each in missing(groups)] == [
        ("1 B", "float32"),
        ("1 kB", "prefix:1+int8"),
    ]


def test_the_lines_to_write_are_a_part_of_a_job_file():
    import tomllib

    more = (("table.optimizer", '"adam"'), ("tower.hidden", "[8, 4]"), ("table.engine", "fused"))
    (group,) = group_records([record(more=more)])

    tree = tomllib.loads(job_lines(group))

    assert tree == {
        "table": {
            "method": "unified",
            "multiplexed": True,
            "budget": "1 kB",
            "lookups": 2,
            "width": 15,
            "optimizer": "adam",
            "engine": "fused",
        },
        "tower": {"hidden": [8, 4]},
    }
    data = {"train": "a", "label": "b"}
    assert parse_job({"data": data, "features": {}, **tree}, "job").table.optimizer == "adam"


class Balance(HTMLParser):
    """Whether every element that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, _attrs):
        if tag not in ("meta", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag


def test_what_is_found_is_written_as_a_table_a_picture_and_a_page(tmp_path):
    records = [*RECORDS, record(None, budget="1 <B>"), record(0.5, 70, method="qr")]
    with Store(tmp_path / "out") as store:
        found = present(records, store, "muxtable sweep job.toml", 0.002)

    assert read_records(found.points) == records
    assert found.chart.read_bytes().startswith(b"\x89PNG")
    page = found.page.read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=", page)
    assert "1 &lt;B&gt;" in page
    assert "<B>" not in page
    document = json.loads(json.dumps(found.to_json()))
    chosen = document["settings"][document["recommended"]["setting"]]
    assert chosen["budget"] == "4 kB"
    assert [document["settings"][k]["budget"] for k in document["front"]] == ["1 kB"] * 2 + ["4 kB"]
    assert "unified MX, 4 kB, 2 x 15: AUC 0.8400" in found.reason
    assert "standard error" in found.reason


def test_a_sweep_without_any_result_says_why(tmp_path):
    lost = record(None, status="lost", reason="a worker died")
    with Store(tmp_path / "out") as store:
        with pytest.raises(PlanError, match="no point fits its budget, the first of them: too sm"):
            present([record(None)], store, "", 0.002)
        with pytest.raises(TrainingError, match="the first that might have: a worker died"):
            present([record(None), lost], store, "", 0.002)


@pytest.mark.parametrize(("low", "high"), [(900, 1100), (500, 2500), (1e4, 2e6), (10, 1e12)])
def test_ticks_of_bytes_are_few_and_round(low, high):
    found = tick_bytes(low, high)

    assert 1 <= len(found) <= 13
    assert all(low <= each <= high for each in found)


def test_bytes_are_written_as_budgets_are():
    assert [tick_text(each) for each in (12, 999.7, 158e3, 1.6e6, 999_800)] == [
        "12 B",
        "1 kB",
        "158 kB",
        "1.6 MB",
        "1 MB",
    ]
