"""What a sweep ends with: the table of all points, the picture, the page and one recommendation."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from features.errors import MuxtableError, PlanError, TrainingError
from launch.sweep.cells import auc_text
from launch.sweep.chart import draw_front
from launch.sweep.measure import WHOLE
from launch.sweep.page import Shown, render
from launch.sweep.record import Record, to_bytes
from launch.sweep.scatter import tick_text
from launch.sweep.store import Store
from launch.sweep.summary import (
    Comparison,
    Group,
    comparisons,
    front,
    group_records,
    job_lines,
    recommended,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A finished sweep."""

    groups: Sequence[Group]
    front: Sequence[Group]
    pairs: Sequence[Comparison]
    chosen: Group
    reason: str
    """Why that one."""
    lines: str
    """What to write and to type for it."""
    points: Path
    chart: Path
    page: Path

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain JSON values."""
        return {
            "points": str(self.points),
            "chart": str(self.chart),
            "page": str(self.page),
            "settings": [group.to_json() for group in self.groups],
            "front": [self.groups.index(group) for group in self.front],
            "multiplexing": [
                {
                    "multiplexed": self.groups.index(pair.multiplexed),
                    "per_feature": self.groups.index(pair.per_feature),
                    **asdict(pair.welch),
                }
                for pair in self.pairs
            ],
            "recommended": {
                "setting": self.groups.index(self.chosen),
                "reason": self.reason,
                "lines": self.lines,
            },
        }


def present(records: Sequence[Record], store: Store, command: str, max_auc_loss: float) -> Found:
    """Writes points.parquet, pareto.png and sweep.html, and returns what stands in them.

    `command` is the line that the page shows. Raises PlanError where no point fits its budget, and
    TrainingError where those that do have no result.
    """
    groups = group_records(records)
    best = front(groups)
    if not best:
        raise _nothing(records)
    chosen = recommended(groups, max_auc_loss)
    reason = _reason(chosen, best[-1], max_auc_loss)
    part = "validation" if chosen.records[0].auc_test is None else "test"
    title = f"AUC ({part}) by bytes"
    document = render(
        Shown(
            title="Which table is worth its bytes",
            subtitle=_subtitle(records, groups),
            groups=groups,
            chosen=chosen,
            reason=reason,
            lines=_lines(chosen),
            part=part,
            command=command,
            footer=_footer(records[0].version),
        )
    )
    return Found(
        groups=groups,
        front=best,
        pairs=comparisons(groups),
        chosen=chosen,
        reason=reason,
        lines=_lines(chosen),
        points=store.write("points.parquet", to_bytes(list(records))),
        chart=store.write("pareto.png", draw_front(groups, best, title)),
        page=store.write("sweep.html", document.encode()),
    )


def _nothing(records: Sequence[Record]) -> MuxtableError:
    others = [record for record in records if record.status != "infeasible"]
    if others:
        return TrainingError(
            f"no point gave a result, the first that might have: {others[0].reason}",
            "mend that; the same command tries again what was lost on the way",
        )
    return PlanError(
        f"no point fits its budget, the first of them: {records[0].reason}", "give larger --budgets"
    )


def _reason(chosen: Group, top: Group, max_auc_loss: float) -> str:
    size = tick_text(chosen.embedding_bytes)
    found = f"{chosen.name}: AUC {auc_text(chosen.auc)} in {size}"
    if chosen is top:
        found += f", the best there is; no cheaper one is within {max_auc_loss:g} of it"
    else:
        found += (
            f", the cheapest within {max_auc_loss:g} of the best ({top.name}: "
            f"{auc_text(top.auc)} in {tick_text(top.embedding_bytes)})"
        )
    auc = chosen.auc
    error = None if auc.std is None else auc.std / math.sqrt(auc.count)
    if error is None or error > max_auc_loss:
        known = "unknown" if error is None else f"{error:.2g}"
        found += f". The standard error of its mean is {known}: more --seeds would tell more"
    return found


def _lines(chosen: Group) -> str:
    lines = job_lines(chosen)
    if chosen.setting.budget is None and chosen.setting.method == "exact":
        lines += "# and neither budget nor rows\n"
    if chosen.codec != WHOLE:
        export = f"muxtable export RUN --out versions --codec {chosen.codec}"
        lines += f"\n# and, once it is trained:\n# {export}\n"
    return lines


def _subtitle(records: Sequence[Record], groups: Sequence[Group]) -> str:
    points = len({record.key for record in records})
    settings = len({group.setting for group in groups})
    codecs = list(dict.fromkeys(group.codec for group in groups))
    stored = f", stored as {', '.join(codecs)}" if len(codecs) > 1 else ""
    seeds = ", ".join(map(str, sorted({record.seed for record in records})))
    return f"{points:,} trainings of {settings:,} settings, seeds {seeds}{stored}"


def _footer(version: str) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Written by muxtable {version} with Python {platform.python_version()} on {now}."
