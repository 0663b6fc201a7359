"""The report of a run: one HTML file that needs nothing else, for a laptop, a phone and a printer.

`Report` holds what is shown, as plain values; `trainer.report_data` gathers it from a run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from trainer.charts import Mark, Point, Series, calibration_chart, line_chart, thinned
from trainer.metrics import Metrics

Facts = Sequence[tuple[str, str]]


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
    page = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    sections = [
        _curves(report),
        _metrics_table(report.metrics),
        _features(report),
        _two("Table", report.table, "Data", report.data),
        _two("Time", report.timing, "Memory", report.memory),
        _section("Reproduce", _pre("\n".join(report.commands))) if report.commands else "",
        _settings(report.job_text),
    ]
    return page.substitute(
        title=escape(report.title),
        subtitle=escape(report.subtitle),
        cards=_cards(report),
        sections="\n".join(filter(None, sections)),
        footer=escape(report.footer),
    )


def write_report(path: Path, report: Report) -> None:
    """Writes the page; a reader sees the old file or the whole new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(render(report), encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _cards(report: Report) -> str:
    part = "test" if "test" in report.metrics else "valid"
    metrics = report.metrics.get(part)
    cards: list[tuple[str, str, str]] = []
    if metrics is not None:
        where = f"{part}, {metrics.rows:,} rows"
        cards = [
            (f"{part} AUC", _number(metrics.auc), where),
            ("log loss", _number(metrics.log_loss), part),
            ("normalized entropy", _number(metrics.normalized_entropy), "below 1 beats the mean"),
            ("calibration", _number(metrics.calibration, 3), "predicted / observed; 1 is right"),
        ]
    cards += [(name, value, "") for name, value in report.cards]
    return "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in cards
    )


def _curves(report: Report) -> str:
    train = [line for line in report.journal if line.get("kind") == "train"]
    valid = [line for line in report.journal if line.get("kind") == "valid"]
    marks = _best_mark(report.best_step, valid)
    charts = []
    loss, valid_loss = _points(train, "loss"), _points(valid, "log_loss")
    if loss or valid_loss:
        lines = [
            Series("training loss", thinned(loss)),
            Series("validation log loss", valid_loss, 1, dots=True),
        ]
        charts.append(("Loss", line_chart(lines, "samples", "log loss", marks)))
    auc = _points(valid, "auc")
    if auc:
        lines = [Series("validation AUC", auc, 1, dots=True)]
        charts.append(("AUC", line_chart(lines, "samples", "AUC", marks)))
    part = "test" if "test" in report.metrics else "valid"
    if part in report.metrics and report.metrics[part].curve:
        bins = [(b.predicted, b.observed, b.weight) for b in report.metrics[part].curve]
        charts.append((f"Calibration on {part}", calibration_chart(bins)))
    speed = _points(train, "samples_per_s")
    if speed:
        lines = [Series("samples per second", thinned(speed))]
        charts.append(("Speed", line_chart(lines, "samples", "samples/s", from_zero=True)))
    cards = "".join(f'<div class="card"><h3>{escape(t)}</h3>{svg}</div>' for t, svg in charts)
    return _section("Curves", f'<div class="charts">{cards}</div>') if charts else ""


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
            _number(m.auc),
            _number(m.log_loss),
            _number(m.normalized_entropy),
            _number(m.calibration),
        ]
        for part, m in metrics.items()
    ]
    return _section("Metrics", _table(head, rows))


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
                    _short(f.expected_residents),
                    _short(f.measured_residents),
                    _short(f.expected_lost),
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
    text = f'<p class="soft">{escape(note.strip())}</p>'
    return _section("Features", text + _table(head, rows, "kinds", is_html=True))


def _two(left: str, left_facts: Facts, right: str, right_facts: Facts) -> str:
    blocks = [
        (title, facts) for title, facts in ((left, left_facts), (right, right_facts)) if facts
    ]
    return (
        '<div class="two">'
        + "".join(f"<section><h2>{t}</h2>{_facts(facts)}</section>" for t, facts in blocks)
        + "</div>"
        if blocks
        else ""
    )


def _facts(facts: Facts) -> str:
    rows = "".join(f"<tr><td>{escape(n)}</td><td>{escape(v)}</td></tr>" for n, v in facts)
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _settings(job_text: str) -> str:
    return _section(
        "Settings",
        f"<details><summary>The whole job, defaults included</summary>{_pre(job_text)}</details>",
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "", *, is_html: bool = False
) -> str:
    clean = (lambda text: text) if is_html else escape
    top = "".join(f"<th>{clean(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{clean(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(value: float | None, digits: int = 4) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    if value and abs(value) < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
