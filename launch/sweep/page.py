"""The page of a sweep: one HTML file in the dress of a run's report, readable without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from launch.sweep.cells import Cells, comparison_table, measured_table, missing_table
from launch.sweep.scatter import COLOURS, scatter, tick_text
from launch.sweep.summary import Group, comparisons, front, missing
from trainer.page import Card, page, pre, section

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
class Shown:
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


def render(shown: Shown) -> str:
    """Returns the page."""
    best = front(shown.groups)
    measured = [group for group in shown.groups if group.status == "done"]
    chart = f'<div class="card sweep">{scatter(measured, best)}</div>'
    sections = [
        _STYLE.substitute(light=_colours(0), dark=_colours(1)),
        section("Recommended", f"<p>{escape(shown.reason)}</p>{pre(shown.lines)}"),
        section(f"AUC ({shown.part}) over bytes", chart),
        _front(best, shown.chosen),
        _multiplexing(shown.groups),
        _all(measured, shown.chosen),
        _others(missing(shown.groups)),
        section("Reproduce", pre(shown.command)),
        _SCRIPT,
    ]
    return page(shown.title, shown.subtitle, _cards(shown.chosen, best[-1]), sections, shown.footer)


def _colours(scheme: int) -> str:
    return " ".join(
        f".sweep .m{number} {{ color: {pair[scheme]}; }}" for number, pair in enumerate(COLOURS)
    )


def _cards(chosen: Group, top: Group) -> list[Card]:
    # Adding 0 takes the sign from a difference of nothing.
    loss = f"{round(chosen.auc.mean - top.auc.mean, 4) + 0:+.4f} against the best"
    return [
        ("recommended", tick_text(chosen.embedding_bytes), chosen.name),
        ("its AUC", f"{chosen.auc.mean:.4f}", loss),
        ("best AUC", f"{top.auc.mean:.4f}", top.name),
        ("its bytes", tick_text(top.embedding_bytes), "embeddings as served"),
    ]


def _front(best: Sequence[Group], chosen: Group) -> str:
    found = measured_table(best)
    numbered = Cells(
        head=["#", *found.head],
        num_words=found.num_words + 1,
        rows=[[f"{number}", *row] for number, row in enumerate(found.rows, 1)],
    )
    text = "No smaller table, nor one as large, has a higher mean AUC than one of these."
    return section("The front", _table(numbered, best.index(chosen)), text)


def _multiplexing(groups: Sequence[Group]) -> str:
    pairs = comparisons(groups)
    if not pairs:
        return ""
    text = (
        "All else equal: features share one region of rows, or each has its own in proportion to "
        "its values. p is that of Welch's t-test on the seeds, two-sided."
    )
    return section("Multiplexed or per feature", _table(comparison_table(pairs)), text)


def _all(measured: Sequence[Group], chosen: Group) -> str:
    values = [_values(group) for group in measured]
    table = _table(measured_table(measured), measured.index(chosen), values)
    return section("All settings", table, "A click on a column sorts by it.")


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
    return section("Without a result", _table(missing_table(groups))) if groups else ""


def _table(
    cells: Cells,
    chosen: int | None = None,
    values: Sequence[Sequence[float | None]] | None = None,
) -> str:
    """Returns a table, its row `chosen` marked.

    With `values`, by row and column of numbers, its columns can be sorted by.
    """
    sortable = "" if values is None else " data-sortable"
    top = "".join(
        f"<th{_word(k, cells)}{sortable}>{escape(cell)}</th>" for k, cell in enumerate(cells.head)
    )
    body = []
    for number, row in enumerate(cells.rows):
        of_row = {} if values is None else dict(enumerate(values[number], cells.num_words))
        text = "".join(
            f"<td{_word(k, cells)}{_value(of_row.get(k))}>{escape(cell)}</td>"
            for k, cell in enumerate(row)
        )
        style = ' class="chosen"' if number == chosen else ""
        body.append(f"<tr{style}>{text}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _word(column: int, cells: Cells) -> str:
    return ' class="word"' if column < cells.num_words else ""


def _value(value: float | None) -> str:
    return "" if value is None else f' data-value="{value:.9g}"'
