import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from trainer.charts import (
    Mark,
    Series,
    calibration_chart,
    line_chart,
    log_chart,
    log_ticks,
    thinned,
    ticks,
)
from trainer.metrics import CalibrationBin, Metrics
from trainer.report import FeatureFacts, Report, render, write_report
from trainer.toml import toml_text

VOID = {"meta", "br"}


class WellFormed(HTMLParser):
    """Fails where an element is closed that is not open; collects tags, text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, _tag, attrs):
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(page: str) -> WellFormed:
    parser = WellFormed()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def metrics(auc: float | None = 0.75) -> Metrics:
    bins = tuple(CalibrationBin(predicted=p, observed=0.9 * p, weight=10) for p in (0.1, 0.3, 0.6))
    return Metrics(
        rows=1234,
        weight=1234,
        positive_rate=0.25,
        auc=auc,
        log_loss=0.5,
        normalized_entropy=None if auc is None else 0.9,
        calibration=1.02,
        curve=bins,
    )


def journal(num_lines: int = 300) -> list[dict[str, object]]:
    train = [
        {
            "kind": "train",
            "step": i,
            "samples": 64 * i,
            "loss": 0.6 - i / 1000,
            "samples_per_s": 9e4,
        }
        for i in range(1, num_lines)
    ]
    valid = [
        {"kind": "valid", "step": i, "samples": 64 * i, "auc": 0.7 + i / 9999, "log_loss": 0.5}
        for i in (100, 200)
    ]
    return train + valid


def report(**changes) -> Report:
    facts = {
        "title": "clicks",
        "subtitle": "one feature",
        "commands": ["muxtable train job.toml"],
        "job_text": "[data]\n",
        "metrics": {"test": metrics(), "valid": metrics()},
        "best_step": 200,
        "journal": journal(),
        "features": [
            FeatureFacts(
                name="user",
                kind="categorical",
                cardinality=4037,
                is_exact=False,
                num_lookups=2,
                width=8,
                region="shared",
                region_rows=32768,
                expected_residents=0.123,
                measured_residents=0.1245,
                expected_lost=61.4,
                measured_lost=58,
            )
        ],
        "table": [("rows", "32,768")],
        "memory": [("planned peak", "600 MiB")],
    }
    return Report(**{**facts, **changes})


def test_the_page_shows_metrics_curves_collisions_and_how_to_get_them_again():
    page = parsed(render(report()))

    for text in ("0.7500", "0.9000", "1.020", "4,037", "0.124", "58", "61.4", "600 MiB"):
        assert text in page.text
    for text in ("Loss", "AUC", "Calibration on test", "Speed", "muxtable train job.toml", "best"):
        assert text in page.text


def test_the_page_needs_nothing_from_anywhere():
    page = render(report())

    loaded = [value for name, value in parsed(page).attributes if name in ("src", "href", "srcset")]
    assert loaded == []
    assert not re.search(r"url\(|@import|<script|https?://", page)


def test_the_page_is_made_for_phones_and_for_dark_rooms():
    page = render(report())

    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_text_of_the_user_is_text():
    evil = "<script>alert('x')</script> & $cards ${title}"

    page = render(report(title=evil, job_text=evil, commands=[evil], subtitle=evil))

    assert "<script" not in page
    assert parsed(page).text.count(evil) >= 4


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {}, "journal": (), "features": (), "commands": ()},
        {"metrics": {"test": metrics(None)}, "journal": journal(2)},
        {"metrics": {"valid": metrics()}, "best_step": None},
    ],
    ids=["nothing", "one class", "no test"],
)
def test_a_run_with_less_to_show_shows_less(changes):
    page = parsed(render(report(**changes)))

    assert "clicks" in page.text
    assert "nan" not in page.text.lower()


def test_a_report_is_replaced_whole(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")

    write_report(path, report())

    assert path.read_text().startswith("<!doctype html>")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_thinning_keeps_means_and_order():
    points = [(float(i), float(i % 2)) for i in range(1000)]

    few = thinned(points, 10)

    assert len(few) == 10
    assert few[0] == (49.5, 0.5)
    assert [x for x, _ in few] == sorted(x for x, _ in few)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.449, 0.61), (-3, 12_345_678), (1e-9, 3e-9)])
def test_ticks_are_few_round_and_inside(low, high):
    values = ticks(low, high)

    assert 2 <= len(values) <= 7
    assert all(low - 1e-12 <= value <= high * (1 + 1e-9) for value in values)
    steps = {round((b - a) / (values[1] - values[0]), 6) for a, b in pairwise(values)}
    assert steps == {1.0}


def test_charts_stand_flat_lines_single_points_and_none():
    flat = line_chart([Series("s", [(0, 1), (5, 1)])], "x", "y", [Mark(5, "end")])
    single = line_chart([Series("s", [(3, 2)])], "x", "y", from_zero=True)
    none = line_chart([Series("s", [])], "x", "y")
    empty = calibration_chart([])

    for chart in (flat, single, none, empty):
        assert "nan" not in chart
        parsed(chart)
    assert "circle" in single


def test_a_job_comes_back_from_its_toml():
    import tomllib

    tree = {
        "data": {"train": ['a "b"\\c.parquet', "ü\x7f\n"], "label": "y", "valid": None},
        "feature": {"a.b c": {"clip": [0, 1.5], "missing": True}},
        "table": {"eps": 1e-8, "rows": 10},
        "empty": {},
    }

    text = toml_text(tree)

    del tree["data"]["valid"]
    assert tomllib.loads(text) == tree


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 1000, [1, 10, 100, 1000]),
        (0.04, 0.3, [0.05, 0.1, 0.2]),
        (3, 30, [5, 10, 20]),
        (1e-12, 1, [1e-12, 1e-9, 1e-6, 1e-3, 1]),
    ],
)
def test_ticks_of_a_logarithm_are_powers_of_ten_or_round_numbers(low, high, expected):
    assert log_ticks(low, high, 5) == pytest.approx(expected)


def test_points_without_a_logarithm_are_left_out_and_equal_ratios_are_equally_far_apart():
    points = [(0.0, 1.0), (1.0, 2.0), (10.0, 20.0), (100.0, 200.0), (1000.0, 0.0)]

    svg = log_chart([Series("a", points, dots=True), Series("", [])], "x", "y", [Mark(10.0, "now")])
    nothing = log_chart([Series("a", [])], "x", "y")

    parsed(svg)
    places = [tuple(map(float, each)) for each in re.findall(r'cx="([^"]+)" cy="([^"]+)"', svg)]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)]
    assert len(places) == 3
    assert steps[0] == pytest.approx(steps[1], abs=0.2)
    assert "now" in svg
    parsed(nothing)
