"""The pictures of the planted signal: AUC, collisions, angles and norms against the theory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from benchmarks.planted_data import CRITEO, Truth
from benchmarks.planted_model import Outcome
from features.collisions import expected_collisions

NAMES = {True: "multiplexed", False: "per feature"}
_COLOURS = {True: "#1f5fa8", False: "#c05621"}


def draw(found: Sequence[Outcome], truth: Truth, folder: Path) -> None:
    """Draws planted-auc.png, -collisions.png, -angles.png and -norms.png into a folder."""
    by_kind = {
        kind: sorted(
            (one for one in found if one.multiplexed == kind), key=lambda each: each.budget
        )
        for kind in (False, True)
    }
    pictures = {
        "auc": _auc(by_kind, truth),
        "collisions": _collisions(by_kind),
        "angles": _angles(by_kind[True]),
        "norms": _norms(by_kind),
    }
    for name, figure in pictures.items():
        figure.axes[0].grid(alpha=0.3)
        figure.axes[0].legend(fontsize=9)
        figure.savefig(folder / f"planted-{name}.png", dpi=110)
        pyplot.close(figure)


_ByKind = dict[bool, list[Outcome]]


def _begin(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure, axes = pyplot.subplots(figsize=(7.5, 5), layout="constrained")
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _auc(by_kind: _ByKind, truth: Truth) -> Any:
    title = "Planted signal: the same rows, shared by the features or not"
    figure, axes = _begin(title, "rows / values", "test AUC")
    for kind, ones in by_kind.items():
        budgets, aucs = [one.budget for one in ones], [one.auc for one in ones]
        axes.plot(budgets, aucs, "o-", color=_COLOURS[kind], label=NAMES[kind])
    axes.axhline(truth.bayes_auc, color="gray", linewidth=1, label="Bayes")
    _log_x(axes, [one.budget for one in by_kind[True]])
    return figure


def _collisions(by_kind: _ByKind) -> Any:
    title = "Values of its own feature in a value's row"
    figure, axes = _begin(title, "rows / values", "mean over the values")
    for kind, ones in by_kind.items():
        budgets, colour = [one.budget for one in ones], _COLOURS[kind]
        counted = [one.residents for one in ones]
        axes.plot(budgets, counted, "o", color=colour, label=f"{NAMES[kind]}, counted")
        foreseen = [_expected(one) for one in ones]
        label = f"{NAMES[kind]}, formula"
        axes.plot(budgets, foreseen, "-", color=colour, linewidth=1, label=label)
    axes.set_yscale("log")
    _log_x(axes, [one.budget for one in by_kind[True]])
    return figure


def _angles(ones: list[Outcome]) -> Any:
    title = "Readers that begin alike turn away from each other"
    figure, axes = _begin(title, "epochs", "mean angle between readers, degrees")
    colours = pyplot.get_cmap("viridis")
    for place, one in enumerate(ones):
        epochs, angles, _ = zip(*one.curve, strict=True)
        colour = colours(0.85 * place / max(len(ones) - 1, 1))
        label = f"{one.budget} rows a value"
        axes.plot(epochs, angles, "o-", color=colour, markersize=3, label=label)
    axes.set_ylim(0, 90)
    return figure


def _norms(by_kind: _ByKind) -> Any:
    title = "Squared norm of the rows after training, 1 where rows = values"
    figure, axes = _begin(title, "values / rows", "mean squared norm, relative")
    for kind, ones in by_kind.items():
        start = next(one.norm for one in ones if one.budget == 1.0)
        crowds, norms = [1 / one.budget for one in ones], [one.norm / start for one in ones]
        axes.plot(crowds, norms, "o-", color=_COLOURS[kind], label=NAMES[kind])
    crowds = [1 / one.budget for one in by_kind[True]]
    axes.plot(crowds, crowds, "--", color="gray", linewidth=1, label="values / rows")
    axes.set_yscale("log")
    _log_x(axes, crowds)
    return figure


def _log_x(axes: Any, places: Sequence[float]) -> None:
    """A logarithmic axis that names the points there are."""
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()


def _expected(one: Outcome) -> float:
    """Returns the residents that the formula gives, mean over the values."""
    own_rows = [one.rows if one.multiplexed else one.budget * count for count in CRITEO]
    residents = [
        count * expected_collisions(count, max(round(rows), 1), 1)[0]
        for count, rows in zip(CRITEO, own_rows, strict=True)
    ]
    return sum(residents) / sum(CRITEO)
