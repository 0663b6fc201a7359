"""Bytes against AUC as inline SVG, in the manner of `trainer.charts`: no library and no script.

A colour for each method (classes `m0`, `m1`, ...), filled where features are multiplexed, hollow
where each has its own rows; bars are one standard deviation; numbers stand beside the front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from launch.sweep.summary import Group
from trainer.charts import ticks

Scale = Callable[[float], float]

# For each method in turn: on a light and on a dark page.
COLOURS = (
    ("#1f6feb", "#6ea8fe"),
    ("#c2570c", "#f2a25c"),
    ("#15803d", "#6ecf8e"),
    ("#9333a8", "#d69be6"),
    ("#b42318", "#ff8a7a"),
    ("#0e7490", "#67cfe3"),
    ("#8a6d00", "#e0c14a"),
    ("#be3a82", "#f59ccb"),
    ("#4d5b6b", "#aebaca"),
    ("#4f46c8", "#a9a4ff"),
)
_WIDTH, _HEIGHT = 620, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 20, 16, 48
_MOST_TICKS = 7


def methods_of(groups: Sequence[Group]) -> list[str]:
    """Returns the methods in the order in which they come, which is that of the colours."""
    return list(dict.fromkeys(group.setting.method for group in groups))


def scatter(groups: Sequence[Group], best: Sequence[Group]) -> str:
    """Returns the chart of measured groups with its legend, the front `best` joined."""
    sizes = [math.log(group.embedding_bytes) for group in groups]
    reaches = [_reach(group) for group in groups]
    x0, x1 = _room(min(sizes), max(sizes), 0.2)
    y0, y1 = _room(min(low for low, _ in reaches), max(high for _, high in reaches), 0.001)

    def x(num_bytes: float) -> float:
        return _LEFT + (math.log(num_bytes) - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(auc: float) -> float:
        return _HEIGHT - _BOTTOM - (auc - y0) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)

    parts = _axes(x, y, (math.exp(x0), math.exp(x1)), (y0, y1))
    line = " ".join(f"{x(g.embedding_bytes):.1f},{y(g.auc.mean):.1f}" for g in best)
    parts.append(f'<polyline class="front" points="{line}"/>')
    methods = methods_of(groups)
    for group, (low, high) in zip(groups, reaches, strict=True):
        colour = f"m{methods.index(group.setting.method) % len(COLOURS)}"
        at, middle = x(group.embedding_bytes), y(group.auc.mean)
        hollow = " hollow" if group.kind == "PF" else ""
        parts.append(
            f'<g class="{colour}"><line class="bar" x1="{at:.1f}" x2="{at:.1f}" '
            f'y1="{y(high):.1f}" y2="{y(low):.1f}"/>'
            f'<circle class="point{hollow}" cx="{at:.1f}" cy="{middle:.1f}" r="4">'
            f"<title>{escape(_hint(group))}</title></circle></g>"
        )
    for number, group in enumerate(best, 1):
        at, middle = x(group.embedding_bytes) - 8, y(group.auc.mean) - 8
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{middle:.1f}" text-anchor="end">{number}</text>'
        )
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="AUC over bytes">'
        f"{''.join(parts)}</svg>"
    )
    return svg + _legend(groups, methods)


def tick_bytes(low: float, high: float) -> list[float]:
    """Returns round numbers of bytes from low to high for a logarithmic axis, not too many."""
    found: list[float] = []
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            factor * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factor in factors
            if low <= factor * 10.0**power <= high
        ]
        if len(found) <= _MOST_TICKS:
            break
    return found


def tick_text(num_bytes: float) -> str:
    """Returns bytes in decimal units, as budgets are mostly written: "158 kB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.9995 * size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def _axes(
    x: Scale, y: Scale, x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    parts += [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(auc):.1f}" y2="{y(auc):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y(auc) + 4:.1f}" text-anchor="end">'
        f"{auc:.4g}</text>"
        for auc in ticks(*y_range, 8)
    ]
    parts += [
        f'<line class="grid" x1="{x(size):.1f}" x2="{x(size):.1f}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(size):.1f}" y="{bottom + 18}" text-anchor="middle">'
        f"{tick_text(size)}</text>"
        for size in tick_bytes(*x_range)
    ]
    parts.append(
        f'<text class="label" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "bytes of the embeddings as served</text>"
        f'<text class="label" transform="rotate(-90)" x="{-(_TOP + bottom) / 2}" y="13" '
        'text-anchor="middle">AUC</text>'
    )
    return parts


def _reach(group: Group) -> tuple[float, float]:
    std = group.auc.std or 0.0
    return group.auc.mean - std, group.auc.mean + std


def _room(low: float, high: float, least: float) -> tuple[float, float]:
    room = max(0.07 * (high - low), least)
    return low - room, high + room


def _hint(group: Group) -> str:
    auc = group.auc
    spread = "" if auc.std is None else f" \N{PLUS-MINUS SIGN} {auc.std:.4f}"
    return f"{group.name}: {tick_text(group.embedding_bytes)}, AUC {auc.mean:.4f}{spread}"


def _legend(groups: Sequence[Group], methods: Sequence[str]) -> str:
    items = [
        f'<span class="key m{number % len(COLOURS)}">{escape(method)}</span>'
        for number, method in enumerate(methods)
    ]
    kinds = {group.kind for group in groups}
    if "PF" in kinds and "MX" in kinds:
        items.append("<span>filled: multiplexed (MX), hollow: per feature (PF)</span>")
    items.append("<span>numbered: the front</span>")
    return f'<p class="legend">{"".join(items)}</p>'
