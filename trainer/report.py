"""The report of a run: one HTML file that needs nothing else, for a laptop, a phone and a printer.

`Report` holds what is shown, as plain values; `trainer.report_data` gathers it from a run's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from trainer.charts import Mark, Point, Series, calibration_chart, line_chart, thinned
from trainer.metrics import Metrics
from trainer.page import (
    Card,
    Facts,
    charts,
    number,
    page,
    pre,
    section,
    short,
    table,
    two,
    write_page,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFacts:
    """A row of the table of features; what is None was not measured or does not apply."""

    name: str
    kind: str
    cardinality: int
    is_exact: bool
    num_lookups: int
    width: int
    region: str
    region_rows: int
    expected_residents: float | None = None
    """Other values of the feature expected in a value's row, per lookup."""
    measured_residents: float | None = None
    expected_lost: float | None = None
    """Values expected to meet another value of the feature in every lookup."""
    measured_lost: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report shows."""

    title: str
    subtitle: str
    commands: Sequence[str]
    """What to type to get this run again."""
    job_text: str
    metrics: Mapping[str, Metrics]
    """By part: "test" and "valid" where they exist."""
    best_step: int | None = None
    journal: Sequence[Mapping[str, Any]] = ()
    """The lines of metrics.jsonl."""
    features: Sequence[FeatureFacts] = ()
    collisions_note: str = ""
    table: Facts = ()
    data: Facts = ()
    timing: Facts = ()
    memory: Facts = ()
    cards: Facts = field(default=())
    """Further headline numbers beside the metrics."""
    footer: str = ""


def render(report: Report) -> str:
    """Returns the page."""
    sections = [
        _curves(report),
        _metrics_table(report.metrics),
        _features(report),
        two("Table", report.table, "Data", report.data),
        two("Time", report.timing, "Memory", report.memory),
        section("Reproduce", pre("\n".join(report.commands))) if report.commands else "",
        _settings(report.job_text),
    ]
    return page(report.title, report.subtitle, _cards(report), sections, report.footer)


def write_report(path: Path, report: Report) -> None:
    """Writes the page; a reader sees the old file or the whole new one."""
    write_page(path, render(report))


def _cards(report: Report) -> list[Card]:
    part = "test" if "test" in report.metrics else "valid"
    metrics = report.metrics.get(part)
    cards: list[Card] = []
    if metrics is not None:
        where = f"{part}, {metrics.rows:,} rows"
        cards = [
            (f"{part} AUC", number(metrics.auc), where),
            ("log loss", number(metrics.log_loss), part),
            ("normalized entropy", number(metrics.normalized_entropy), "below 1 beats the mean"),
            ("calibration", number(metrics.calibration, 3), "predicted / observed; 1 is right"),
        ]
    return cards + [(name, value, "") for name, value in report.cards]


def _curves(report: Report) -> str:
    train = [line for line in report.journal if line.get("kind") == "train"]
    valid = [line for line in report.journal if line.get("kind") == "valid"]
    marks = _best_mark(report.best_step, valid)
    drawn = []
    loss, valid_loss = _points(train, "loss"), _points(valid, "log_loss")
    if loss or valid_loss:
        lines = [
            Series("training loss", thinned(loss)),
            Series("validation log loss", valid_loss, 1, dots=True),
        ]
        drawn.append(("Loss", line_chart(lines, "samples", "log loss", marks)))
    auc = _points(valid, "auc")
    if auc:
        lines = [Series("validation AUC", auc, 1, dots=True)]
        drawn.append(("AUC", line_chart(lines, "samples", "AUC", marks)))
    part = "test" if "test" in report.metrics else "valid"
    if part in report.metrics and report.metrics[part].curve:
        bins = [(b.predicted, b.observed, b.weight) for b in report.metrics[part].curve]
        drawn.append((f"Calibration on {part}", calibration_chart(bins)))
    speed = _points(train, "samples_per_s")
    if speed:
        lines = [Series("samples per second", thinned(speed))]
        drawn.append(("Speed", line_chart(lines, "samples", "samples/s", from_zero=True)))
    return section("Curves", charts(drawn)) if drawn else ""


def _best_mark(best_step: int | None, valid: Sequence[Mapping[str, Any]]) -> list[Mark]:
    for line in valid:
        if line["step"] == best_step and len(valid) > 1:
            return [Mark(float(line["samples"]), "best")]
    return []


def _points(lines: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
    return [
        (float(line["samples"]), float(line[name])) for line in lines if line.get(name) is not None
    ]


def _metrics_table(metrics: Mapping[str, Metrics]) -> str:
    if not metrics:
        return ""
    head = ["part", "rows", "positive", "AUC", "log loss", "normalized entropy", "calibration"]
    rows = [
        [
            part,
            f"{m.rows:,}",
            "-" if m.positive_rate is None else f"{100 * m.positive_rate:.2f} %",
            number(m.auc),
            number(m.log_loss),
            number(m.normalized_entropy),
            number(m.calibration),
        ]
        for part, m in metrics.items()
    ]
    return section("Metrics", table(head, rows))


def _features(report: Report) -> str:
    if not report.features:
        return ""
    head = [
        "feature",
        "kind",
        "values",
        "lookups \N{MULTIPLICATION SIGN} width",
        "rows",
        "co-residents<br>expected",
        "co-residents<br>measured",
        "colliding in all<br>expected",
        "colliding in all<br>measured",
    ]
    rows = [
        [
            escape(f.name),
            escape(f.kind),
            f"{f.cardinality:,}",
            f"{f.num_lookups} \N{MULTIPLICATION SIGN} {f.width}",
            f'{f.region_rows:,} <span class="tag">{escape(f.region)}</span>',
            *(
                ["none", "", "", ""]
                if f.is_exact
                else [
                    short(f.expected_residents),
                    short(f.measured_residents),
                    short(f.expected_lost),
                    "-" if f.measured_lost is None else f"{f.measured_lost:,}",
                ]
            ),
        ]
        for f in report.features
    ]
    note = (
        "Co-residents: other values of the same feature that share a value's row, for one lookup. "
        "Colliding in all: values that meet some other value of their feature in every lookup, so "
        "that the model cannot tell them apart by this feature alone. Exact features have rows for "
        "each value. " + report.collisions_note
    )
    return section("Features", table(head, rows, "kinds", is_html=True), note)


def _settings(job_text: str) -> str:
    return section(
        "Settings",
        f"<details><summary>The whole job, defaults included</summary>{pre(job_text)}</details>",
    )
