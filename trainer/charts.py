"""Charts as inline SVG: no library, no script, colours from the page's CSS so that dark mode works.

Classes the page styles: `grid`, `axis`, `mark`, `ideal` (lines), `tick`, `label` (text), and `s0`,
`s1`, `s2` (series).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

Point = tuple[float, float]

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 14, 46
_MOST_POINTS = 150


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one line, in the order of x; `dots` marks each of them. One without a name is not
    in the legend."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at x with a word beside it."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps data to the drawing; a logarithmic axis needs bounds and values above 0."""

    x0: float
    x1: float
    y0: float
    y1: float
    log_x: bool = False
    log_y: bool = False

    def x(self, value: float) -> float:
        share = _share(value, self.x0, self.x1, self.log_x)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = _share(value, self.y0, self.y1, self.log_y)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    *,
    from_zero: bool = False,
) -> str:
    """Returns an SVG of lines over a common x from 0 on; series without points are left out."""
    series = [each for each in series if each.points]
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    bottom, top = _room(ys)
    if from_zero:
        bottom, top = 0.0, 1.15 * max(ys, default=1.0)
    scale = _Scale(0.0, max(xs, default=0.0) or 1.0, bottom, top)
    parts = [_axes(scale, x_label, y_label), *_marks(marks, scale)]
    parts += [_line(each, scale) for each in series]
    return _svg(parts, f"{y_label} over {x_label}") + _legend(series)


def log_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    *,
    log_y: bool = True,
) -> str:
    """Returns an SVG of lines over a logarithmic x, and y too unless `log_y` is False; points that
    a logarithm has no place for are left out."""
    kept = [
        Series(
            each.name,
            [(x, y) for x, y in each.points if x > 0 and (y > 0 or not log_y)],
            each.colour,
            each.dots,
        )
        for each in series
    ]
    kept = [each for each in kept if each.points]
    xs = [x for each in kept for x, _ in each.points] or [1.0]
    ys = [y for each in kept for _, y in each.points] or [1.0]
    left, right = _log_room(xs)
    bottom, top = _log_room(ys) if log_y else (0.0, 1.05 * max(ys))
    scale = _Scale(left, right, bottom, top or 1.0, log_x=True, log_y=log_y)
    parts = [_axes(scale, x_label, y_label), *_marks(marks, scale)]
    parts += [_line(each, scale) for each in kept]
    return _svg(parts, f"{y_label} over {x_label}") + _legend(kept)


def calibration_chart(bins: Sequence[tuple[float, float, float]]) -> str:
    """Returns an SVG of observed over predicted rates; `bins` are (predicted, observed, weight)."""
    most = max([max(predicted, observed) for predicted, observed, _ in bins], default=1.0)
    top = min(1.0, _nice_top(most))
    scale = _Scale(0, top, 0, top)
    parts = [_axes(scale, "predicted rate", "observed rate")]
    parts.append(
        f'<line class="ideal" x1="{scale.x(0):.1f}" y1="{scale.y(0):.1f}" '
        f'x2="{scale.x(top):.1f}" y2="{scale.y(top):.1f}"/>'
    )
    points = [(predicted, observed) for predicted, observed, _ in bins]
    parts.append(_line(Series("bins of equal size", points, dots=True), scale))
    return _svg(parts, "observed over predicted rate") + _legend(
        [Series("bins of equal size", points)], ideal=True
    )


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Returns at most `most` points: means of neighbours, so that no detail is invented."""
    if len(points) <= most:
        return list(points)
    bounds = [len(points) * i // most for i in range(most + 1)]
    groups = [points[a:b] for a, b in pairwise(bounds)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from low to high, at most `most` + 1 of them."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= most:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns powers of ten from low to high, evenly thinned; 1, 2 and 5 where there are few."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        step = -(-(last - first) // most)
        return [10.0**power for power in range(first, last + 1, step)]
    found = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
    return [value for value in found if low <= value <= high]


def _share(value: float, low: float, high: float, is_log: bool) -> float:
    """Where a value lies between two bounds, 0 to 1."""
    if is_log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _log_room(values: Sequence[float]) -> tuple[float, float]:
    """The range of a logarithmic axis, with a little room."""
    low, high = min(values), max(values)
    room = (high / low) ** 0.04 if high > low else 2.0
    return low / room, high * room


def _marks(marks: Sequence[Mark], scale: _Scale) -> list[str]:
    parts = []
    for mark in marks:
        x = scale.x(mark.x)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="tick" x="{x - 4:.1f}" y="{_TOP + 10}" text-anchor="end">'
            f"{escape(mark.text)}</text>"
        )
    return parts


def _room(ys: Sequence[float]) -> tuple[float, float]:
    """The range of y with a little room; a flat line gets a range around it."""
    low, high = min(ys, default=0.0), max(ys, default=1.0)
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    room = 0.06 * (high - low)
    return low - room, high + room


def _nice_top(value: float) -> float:
    for top in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        if value <= top:
            return top
    return 1.0


def _axes(scale: _Scale, x_label: str, y_label: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in (log_ticks if scale.log_y else ticks)(scale.y0, scale.y1, 5):
        y = scale.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{_tick_text(value)}</text>"
        )
    for value in (log_ticks if scale.log_x else ticks)(scale.x0, scale.x1, 5):
        x = scale.x(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{_tick_text(value)}</text>"
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="label" transform="rotate(-90)" x="{-(_TOP + bottom) / 2}" y="13" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _line(series: Series, scale: _Scale) -> str:
    points = [(scale.x(x), scale.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    text = f'<polyline class="line s{series.colour}" points="{path}"/>' if len(points) > 1 else ""
    if series.dots or len(points) == 1:
        for (x, y), (data_x, data_y) in zip(points, series.points, strict=True):
            hint = f"{series.name}: {_tick_text(data_x)}, {data_y:.4g}"
            text += (
                f'<circle class="dot s{series.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{escape(hint)}</title></circle>"
            )
    return text


def _svg(parts: Sequence[str], description: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
        + "".join(parts)
        + "</svg>"
    )


def _legend(series: Sequence[Series], *, ideal: bool = False) -> str:
    items = [
        f'<span class="key s{each.colour}">{escape(each.name)}</span>'
        for each in series
        if each.name
    ]
    if ideal:
        items.append('<span class="key dashed">perfectly calibrated</span>')
    return f'<p class="legend">{"".join(items)}</p>'


def _tick_text(value: float) -> str:
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.4g}{unit}"
    return f"{value:.4g}"
