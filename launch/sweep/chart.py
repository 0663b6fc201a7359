"""The picture of a sweep: bytes of the embeddings against AUC, with the spread over the seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence

from features.errors import ConfigError
from launch.sweep.scatter import COLOURS, methods_of, tick_bytes, tick_text
from launch.sweep.summary import Group
from trainer.codec_chart import label_points


def draw_front(groups: Sequence[Group], best: Sequence[Group], title: str) -> bytes:
    """Returns a PNG of the measured groups, those of the front `best` joined and named.

    Raises ConfigError where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator
    except ImportError as exc:
        raise ConfigError(f"a sweep's picture needs matplotlib: {exc}", "pip install it") from exc
    figure = Figure(figsize=(10, 6), layout="constrained", dpi=150)
    figure.set_canvas(FigureCanvasAgg(figure))
    axes = figure.add_subplot()
    axes.plot(
        [each.embedding_bytes for each in best],
        [each.auc.mean for each in best],
        color="#5b6878",
        linewidth=1.2,
        zorder=1,
    )
    measured = [group for group in groups if group.status == "done"]
    for number, method in enumerate(methods_of(measured)):
        for kind in ("MX", "PF", ""):
            shown = [g for g in measured if g.setting.method == method and g.kind == kind]
            if shown:
                colour = COLOURS[number % len(COLOURS)][0]
                axes.errorbar(
                    [group.embedding_bytes for group in shown],
                    [group.auc.mean for group in shown],
                    yerr=[group.auc.std or 0.0 for group in shown],
                    linestyle="none",
                    marker="o",
                    markersize=5.5,
                    color=colour,
                    markerfacecolor="white" if kind == "PF" else colour,
                    capsize=2.5,
                    linewidth=1,
                    label=f"{method} {kind}".strip(),
                )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks(tick_bytes(low, high), [tick_text(each) for each in tick_bytes(low, high)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes of the embeddings as served")
    axes.set_ylabel("AUC")
    axes.set_title(title)
    axes.margins(0.08, 0.12)
    axes.grid(visible=True, linewidth=0.4, color="#d9dee4")
    axes.legend(fontsize=8, loc="best")
    figure.draw_without_rendering()
    label_points(
        axes,
        [(each.embedding_bytes, each.auc.mean, _label(each, best)) for each in best],
        [(each.embedding_bytes, each.auc.mean) for each in measured if each not in best],
    )
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _label(group: Group, best: Sequence[Group]) -> str:
    """The number of a group in the printed front, and what its rows are."""
    codec = "" if group.codec == "float32" else group.codec
    words = [group.shape, group.more, codec]
    return f"{best.index(group) + 1}: " + " ".join(filter(None, words))
