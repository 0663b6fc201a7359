"""A picture of what codecs cost: bytes of the table against AUC."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from trainer.choose_codec import Trial

# Where a label may stand beside its point, in points: the first place that is free.
_PLACES = [
    *((0, 6, "center", "bottom"), (0, -6, "center", "top")),
    *((7, 0, "left", "center"), (-7, 0, "right", "center")),
    *((0, 18, "center", "bottom"), (0, -18, "center", "top")),
]


def draw_trials(trials: Sequence[Trial], path: Path, title: str) -> None:
    """Writes a PNG of the trials; those that no smaller one beats are blue and joined by a line.

    Raises ConfigError where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    except ImportError as exc:
        raise ConfigError(
            f"a chart needs matplotlib: {exc}", "pip install matplotlib, or leave the chart out"
        ) from exc
    figure = Figure(figsize=(10, 6), layout="constrained", dpi=150)
    figure.set_canvas(FigureCanvasAgg(figure))
    axes = figure.add_subplot()
    best, others = front(trials), [trial for trial in trials if trial not in front(trials)]
    for group, colour, line in ((others, "#c05621", ""), (best, "#1f5fa8", "-")):
        sizes, aucs = [trial.table_bytes for trial in group], [trial.auc for trial in group]
        axes.plot(sizes, aucs, color=colour, linestyle=line, marker="o", markersize=5, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("bytes of the table")
    axes.set_ylabel("AUC")
    axes.set_title(title)
    axes.margins(0.1, 0.15)
    low, high = axes.get_xlim()
    # More ticks of a decade than 1 and 3 have room for their words where decades are few.
    factors = (1, 1.5, 2, 3, 5, 7) if high < 30 * low else (1, 3)
    axes.xaxis.set_major_locator(LogLocator(subs=factors))
    axes.xaxis.set_major_formatter(FuncFormatter(_size_text))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="both", linewidth=0.4, color="#d9dee4")
    figure.draw_without_rendering()
    label_points(axes, [(trial.table_bytes, trial.auc, trial.codec) for trial in trials])
    figure.savefig(path, format="png")


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that are better than every smaller one, from small to large."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda each: (each.table_bytes, -each.auc)):
        if not best or trial.auc > best[-1].auc:
            best.append(trial)
    return best


def _size_text(size: float, _: int | None) -> str:
    """Returns bytes in decimal units, "300 kB": what matplotlib asks of a formatter."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        # A tick is off by rounding: what is next to 1 MB is not 1000 kB.
        if round(size) >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} B"


def label_points(
    axes: Any,
    named: Sequence[tuple[float, float, str]],
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Names points (x, y, text) of a figure that was drawn without rendering.

    Those that fall together share a label, and none covers another or a point, `others` included.
    """
    points: list[tuple[float, float]] = []
    names: list[list[str]] = []
    for x, y, name in sorted(named):
        at = axes.transData.transform((x, y))
        near = [k for k, (px, py) in enumerate(points) if abs(px - at[0]) + abs(py - at[1]) < 16]
        if near:
            names[near[0]].append(name)
        else:
            points.append((at[0], at[1]))
            names.append([name])
    obstacles = [*points, *(tuple(axes.transData.transform(other)) for other in others)]
    taken: list[Any] = []
    for (x, y), words in zip(points, names, strict=True):
        for place in _PLACES:
            text = axes.annotate(
                ", ".join(words),
                (x, y),
                xycoords="figure pixels",
                xytext=place[:2],
                textcoords="offset points",
                ha=place[2],
                va=place[3],
                fontsize=8,
                # Readable above lines and bars.
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
            )
            # What is outside the layout cannot move the points.
            text.set_in_layout(False)
            box = text.get_window_extent()
            covers = any(box.x0 < px < box.x1 and box.y0 < py < box.y1 for px, py in obstacles)
            if not covers and not any(box.overlaps(other) for other in taken):
                break
            if place is not _PLACES[-1]:
                text.remove()
        taken.append(box)
