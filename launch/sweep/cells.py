"""The cells of a sweep's tables, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from launch.sweep.measure import WHOLE
from launch.sweep.scatter import tick_text
from launch.sweep.statistics import Sample
from launch.sweep.summary import Comparison, Group

_SETTING = ("method", "", "budget", "lookups x width", "also", "codec")
_MEASURED = ("AUC", "std", "seeds", "log loss", "embeddings", "with tower", "ms/step", "peak")
_COMPARISON = ("multiplexed", "per feature", "gain", "p")
# Whether features share rows is what the columns of a comparison say.
_KIND = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table as text."""

    head: Sequence[str]
    num_words: int
    """Columns in front that hold words; the others hold numbers."""
    rows: Sequence[Sequence[str]]


def measured_table(groups: Sequence[Group]) -> Cells:
    """Returns what was measured of groups."""
    kept = _kept(groups)
    return _table(groups, kept, _MEASURED, [_measured(group) for group in groups])


def comparison_table(pairs: Sequence[Comparison]) -> Cells:
    """Returns what multiplexing is worth."""
    groups = [pair.multiplexed for pair in pairs]
    kept = [column for column in _kept(groups) if column != _KIND]
    return _table(groups, kept, _COMPARISON, [_comparison(pair) for pair in pairs])


def missing_table(groups: Sequence[Group]) -> Cells:
    """Returns why groups have no result."""
    why = [[group.reason or ""] for group in groups]
    found = _table(groups, _kept(groups), ("why",), why)
    return replace(found, num_words=len(found.head))


def _table(
    groups: Sequence[Group],
    kept: Sequence[int],
    head: Sequence[str],
    cells: Sequence[Sequence[str]],
) -> Cells:
    return Cells(
        head=[*(_SETTING[k] for k in kept), *head],
        num_words=len(kept),
        rows=[
            [*(_setting(group)[k] for k in kept), *row]
            for group, row in zip(groups, cells, strict=True)
        ],
    )


def _kept(groups: Sequence[Group]) -> list[int]:
    """Returns which columns of a setting say something of these groups."""
    cells = [_setting(group) for group in groups]
    return [k for k in range(len(_SETTING)) if any(row[k] for row in cells)]


def _setting(group: Group) -> list[str]:
    setting = group.setting
    codec = "" if group.codec == WHOLE else group.codec
    return [setting.method, group.kind, setting.budget or "", group.shape, group.more, codec]


def _measured(group: Group) -> list[str]:
    auc = group.auc
    seeds = f"{auc.count}" + (f" ({group.num_missing} missing)" if group.num_missing else "")
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


def _comparison(comparison: Comparison) -> list[str]:
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
