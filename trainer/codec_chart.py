"""A picture of what codecs cost: bytes of the table against AUC."""

from collections.abc import Sequence
from pathlib import Path

from features.errors import ConfigError
from trainer.choose_codec import Trial


def draw_trials(trials: Sequence[Trial], path: Path, title: str) -> None:
    """Writes a PNG of the trials; those that no smaller one beats are joined by a line.

    Raises ConfigError where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ConfigError(
            f"a chart needs matplotlib: {exc}", "pip install matplotlib, or leave the chart out"
        ) from exc
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    best = front(trials)
    axes.plot(
        [trial.table_bytes for trial in best],
        [trial.auc for trial in best],
        color="#9aa5b1",
        zorder=1,
    )
    for number, trial in enumerate(sorted(trials, key=lambda each: each.table_bytes)):
        axes.scatter(
            trial.table_bytes,
            trial.auc,
            color="#1f5fa8" if trial in best else "#c05621",
            s=28,
            zorder=2,
        )
        # Neighbours take turns above and below their points.
        axes.annotate(
            trial.codec,
            (trial.table_bytes, trial.auc),
            xytext=(0, 7 if number % 2 else -13),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlabel("bytes of the table")
    axes.set_ylabel("AUC")
    axes.set_title(title)
    axes.margins(0.08, 0.12)
    axes.grid(visible=True, which="both", linewidth=0.4, color="#d9dee4")
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(path, format="png", dpi=150)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that are better than every smaller one, from small to large."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda each: (each.table_bytes, -each.auc)):
        if not best or trial.auc > best[-1].auc:
            best.append(trial)
    return best
