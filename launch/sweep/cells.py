"""The cells of a sweep's tables, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from launch.sweep.measure import WHOLE
from launch.sweep.scatter import tick_text
from launch.sweep.statistics import Sample
from launch.sweep.summary import Comparison, Group

SETTING_HEAD = ("method", "", "budget", "lookups x width", "also", "codec")
MEASURED_HEAD = ("AUC", "std", "seeds", "log loss", "embeddings", "with tower", "ms/step", "peak")
COMPARISON_HEAD = ("multiplexed", "per feature", "gain", "p")


def shown(groups: Sequence[Group]) -> list[int]:
    """Returns which columns of SETTING_HEAD say something of these groups."""
    cells = [setting_cells(group) for group in groups]
    return [k for k in range(len(SETTING_HEAD)) if any(row[k] for row in cells)]


def setting_cells(group: Group) -> list[str]:
    """Returns what a group is."""
    setting = group.setting
    codec = "" if group.codec == WHOLE else group.codec
    return [setting.method, group.kind, setting.budget or "", group.shape, group.more, codec]


def measured_cells(group: Group) -> list[str]:
    """Returns what was measured of a group."""
    auc = group.auc
    seeds = f"{auc.count}" + (f" ({group.num_failed} failed)" if group.num_failed else "")
    step = group.middle(lambda record: record.step_s)
    return [
        f"{auc.mean:.4f}",
        std_text(auc),
        seeds,
        _number(group.middle(lambda record: record.log_loss)),
        tick_text(group.embedding_bytes),
        tick_text(group.middle(lambda record: record.served_bytes) or 0),
        "" if step is None else f"{1000 * step:.3g}",
        tick_text(group.middle(lambda record: record.peak_bytes) or 0),
    ]


def comparison_cells(comparison: Comparison) -> list[str]:
    """Returns what multiplexing is worth."""
    p = comparison.welch.p
    return [
        auc_text(comparison.multiplexed.auc),
        auc_text(comparison.per_feature.auc),
        f"{comparison.welch.difference:+.4f}",
        "" if p is None else p_text(p),
    ]


def auc_text(auc: Sample) -> str:
    """Returns mean and spread."""
    spread = std_text(auc)
    return f"{auc.mean:.4f}" + (f" \N{PLUS-MINUS SIGN} {spread}" if spread else "")


def std_text(auc: Sample) -> str:
    """Returns the spread, where there is one."""
    return "" if auc.std is None else f"{auc.std:.4f}"


def p_text(p: float) -> str:
    """Returns a p as people write it."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
