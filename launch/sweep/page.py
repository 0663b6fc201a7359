"""The page of a sweep: one HTML file in the dress of a run's report, readable without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import trainer.report
from launch.sweep import cells
from launch.sweep.scatter import COLOURS, scatter, tick_text
from launch.sweep.summary import Group, comparisons, front

_STYLE = Template("""<style>
$light
@media (prefers-color-scheme: dark) { $dark }
.sweep { max-width: 860px; } .front { fill: none; stroke: var(--soft); stroke-width: 1.2; }
.bar { stroke: currentColor; stroke-width: 1.3; }
.point { fill: currentColor; stroke: currentColor; stroke-width: 1.8; }
.point.hollow { fill: var(--card); }
.legend .key::before { background: currentColor; border-radius: 50%; width: 9px; height: 9px; }
.legend .key { display: inline-flex; align-items: center; }
td.word, th.word { text-align: left; } tr.chosen td { font-weight: 650; color: var(--good); }
th[data-sortable] { cursor: pointer; } th[aria-sort] { color: var(--ink); }
</style>""")
# Numbers sort as numbers, sizes by their bytes (data-value), words as words.
_SCRIPT = """<script>
for (const head of document.querySelectorAll("th[data-sortable]")) {
  head.tabIndex = 0;
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const order = (a, b) => isNaN(a) || isNaN(b) || a === "" || b === ""
      ? String(a).localeCompare(String(b), undefined, {numeric: true}) : a - b;
    const rows = [...body.rows].sort((a, b) => order(value(a), value(b)));
    body.append(...(down ? rows.reverse() : rows));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
</script>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows."""

    title: str
    subtitle: str
    groups: Sequence[Group]
    chosen: Group
    reason: str
    """Why that one."""
    lines: str
    """What to write in the job file, and what to type."""
    part: str
    """The files that the AUC is of."""
    command: str
    footer: str


def render(page: Page) -> str:
    """Returns the page."""
    template = Path(trainer.report.__file__).with_name("report.html").read_text(encoding="utf-8")
    best = front(page.groups)
    measured = [group for group in page.groups if group.status == "done"]
    sections = [
        _STYLE.substitute(light=_colours(0), dark=_colours(1)),
        _section("Recommended", f"<p>{escape(page.reason)}</p><pre>{escape(page.lines)}</pre>"),
        _section(
            f"AUC ({page.part}) over bytes",
            f'<div class="card sweep">{scatter(measured, best)}</div>',
        ),
        _front(best, page.chosen),
        _multiplexing(page.groups),
        _all(measured, page.chosen),
        _others([group for group in page.groups if group.status != "done"]),
        _section("Again", f"<pre>{escape(page.command)}</pre>"),
        _SCRIPT,
    ]
    return Template(template).substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        cards=_cards(page, best),
        sections="\n".join(filter(None, sections)),
        footer=escape(page.footer),
    )


def _colours(scheme: int) -> str:
    return " ".join(
        f".sweep .m{number} {{ color: {c[scheme]}; }}" for number, c in enumerate(COLOURS)
    )


def _cards(page: Page, best: Sequence[Group]) -> str:
    chosen, top = page.chosen, best[-1]
    entries = [
        ("recommended", tick_text(chosen.embedding_bytes), chosen.name),
        (
            "its AUC",
            f"{chosen.auc.mean:.4f}",
            f"{chosen.auc.mean - top.auc.mean:+.4f} against the best",
        ),
        ("best AUC", f"{top.auc.mean:.4f}", top.name),
        ("its bytes", tick_text(top.embedding_bytes), "embeddings as served"),
    ]
    return "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in entries
    )


def _front(best: Sequence[Group], chosen: Group) -> str:
    kept = cells.shown(best)
    head = ["#", *(cells.SETTING_HEAD[k] for k in kept), *cells.MEASURED_HEAD]
    rows = [
        ([f"{number}", *_settings(group, kept), *cells.measured_cells(group)], group is chosen)
        for number, group in enumerate(best, 1)
    ]
    text = "No smaller table, nor one as large, has a higher mean AUC than one of these."
    return _section("The front", _soft(text) + _table(head, rows, num_words=1 + len(kept)))


def _multiplexing(groups: Sequence[Group]) -> str:
    pairs = comparisons(groups)
    if not pairs:
        return ""
    # That features share rows is what the other columns say.
    kept = [k for k in cells.shown([pair.multiplexed for pair in pairs]) if k != 1]
    head = [*(cells.SETTING_HEAD[k] for k in kept), *cells.COMPARISON_HEAD]
    rows = [
        ([*_settings(pair.multiplexed, kept), *cells.comparison_cells(pair)], False)
        for pair in pairs
    ]
    text = (
        "All else equal: features share one region of rows, or each has its own in proportion to "
        "its values. p is that of Welch's t-test on the seeds, two-sided."
    )
    return _section("Multiplexed or per feature", _soft(text) + _table(head, rows, len(kept)))


def _all(measured: Sequence[Group], chosen: Group) -> str:
    kept = cells.shown(measured)
    head = [*(cells.SETTING_HEAD[k] for k in kept), *cells.MEASURED_HEAD]
    rows = [
        ([*_settings(group, kept), *cells.measured_cells(group)], group is chosen)
        for group in measured
    ]
    values = [[*(None for _ in kept), *_values(group)] for group in measured]
    text = "A click on a column sorts by it."
    table = _table(head, rows, len(kept), values=values)
    return _section("All settings", _soft(text) + table)


def _values(group: Group) -> list[float | None]:
    """Returns what the measured cells are sorted by, where their text is not it."""
    return [
        *(None, None, None, None),
        group.embedding_bytes,
        group.middle(lambda record: record.served_bytes),
        None,
        group.middle(lambda record: record.peak_bytes),
    ]


def _others(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    kept = cells.shown(groups)
    head = [*(cells.SETTING_HEAD[k] for k in kept), "why"]
    rows = [([*_settings(group, kept), group.reason or ""], False) for group in groups]
    return _section("Without a result", _table(head, rows, len(kept) + 1))


def _settings(group: Group, kept: Iterable[int]) -> list[str]:
    found = cells.setting_cells(group)
    return [found[k] for k in kept]


def _table(
    head: Sequence[str],
    rows: Iterable[tuple[Sequence[str], bool]],
    num_words: int,
    *,
    values: Sequence[Sequence[float | None]] | None = None,
) -> str:
    """Returns a table whose first columns are words; with `values` its columns can be sorted by."""
    sortable = "" if values is None else " data-sortable"
    top = "".join(
        f"<th{_word(k, num_words)}{sortable}>{escape(cell)}</th>" for k, cell in enumerate(head)
    )
    body = []
    for number, (row, is_chosen) in enumerate(rows):
        of_row = [None] * len(row) if values is None else values[number]
        text = "".join(
            f"<td{_word(k, num_words)}{_value(value)}>{escape(cell)}</td>"
            for k, (cell, value) in enumerate(zip(row, of_row, strict=True))
        )
        style = ' class="chosen"' if is_chosen else ""
        body.append(f"<tr{style}>{text}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _word(column: int, num_words: int) -> str:
    return ' class="word"' if column < num_words else ""


def _value(value: float | None) -> str:
    return "" if value is None else f' data-value="{value:.9g}"'


def _soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"
