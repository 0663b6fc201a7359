"""The parts that pages are made of: one HTML file that needs nothing else, for a laptop, a phone
and a printer. What goes in is escaped unless its name says that it is HTML.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

GAP = '<div style="height:12px"></div>'
"""HTML between two blocks of a section."""

Facts = Sequence[tuple[str, str]]
Card = tuple[str, str, str]
"""Name, value, and a note below it."""


def page(
    title: str, subtitle: str, cards: Iterable[Card], sections: Iterable[str], footer: str
) -> str:
    """Returns a page; `sections` are HTML, empty ones are left out."""
    template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        cards="".join(
            f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>'
            f"<small>{escape(note)}</small></div>"
            for name, value, note in cards
        ),
        sections="\n".join(filter(None, sections)),
        footer=escape(footer),
    )


def write_page(path: Path, text: str) -> None:
    """Writes a page; a reader sees the old file or the whole new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def section(title: str, body_html: str, note: str = "") -> str:
    """Returns a titled section, with a paragraph above its body."""
    text = f'<p class="soft">{escape(note.strip())}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{text}{body_html}</section>"


def charts(named_html: Sequence[tuple[str, str]]) -> str:
    """Returns charts, (title, SVG) each, side by side where there is room."""
    cards = "".join(
        f'<div class="card"><h3>{escape(title)}</h3>{svg}</div>' for title, svg in named_html
    )
    return f'<div class="charts">{cards}</div>'


def two(left: str, left_facts: Facts, right: str, right_facts: Facts) -> str:
    """Returns two lists of facts side by side, without what is empty."""
    blocks = [(title, each) for title, each in ((left, left_facts), (right, right_facts)) if each]
    if not blocks:
        return ""
    return '<div class="two">' + "".join(section(t, facts(each)) for t, each in blocks) + "</div>"


def facts(rows: Facts) -> str:
    """Returns a list of names and values."""
    body = "".join(f"<tr><td>{escape(n)}</td><td>{escape(v)}</td></tr>" for n, v in rows)
    return f'<div class="scroll"><table class="facts"><tbody>{body}</tbody></table></div>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "", *, is_html: bool = False
) -> str:
    """Returns a table that scrolls sideways on a phone."""
    clean = (lambda text: text) if is_html else escape
    top = "".join(f"<th>{clean(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{clean(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pre(text: str) -> str:
    """Returns text as it stands."""
    return f"<pre>{escape(text)}</pre>"


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number with so many digits behind the point."""
    return "none" if value is None else f"{value:.{digits}f}"


def short(value: float | None) -> str:
    """Returns a number with as many digits as it needs; "-" for None."""
    if value is None:
        return "-"
    if value and abs(value) < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Returns a share as a percentage; "-" for None."""
    if share is None:
        return "-"
    if share and share < 0.0001:
        return "< 0.01 %"
    return f"{100 * share:.3g} %"
