"""What a sweep found: means over the seeds, the front of AUC over bytes, and the table to take."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from launch.settings import apply_override
from launch.sweep.grid import Setting
from launch.sweep.measure import WHOLE
from launch.sweep.record import Record, Status
from launch.sweep.statistics import Sample, Welch, sample, welch
from trainer.toml import toml_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The points of one setting by one codec: they differ in their seeds."""

    setting: Setting
    codec: str
    """How the rows are stored."""
    records: tuple[Record, ...]
    """Those that were measured."""
    status: Status
    """Done where at least one seed is; else why there is nothing to compare."""
    reason: str | None
    num_missing: int
    """Seeds without a result."""

    @property
    def aucs(self) -> list[float]:
        """The AUC of every seed."""
        return [record.auc for record in self.records if record.auc is not None]

    @property
    def auc(self) -> Sample:
        """Mean and spread of the AUC."""
        return sample(self.aucs)

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the embeddings when served."""
        return max(record.embedding_bytes for record in self.records)

    def middle(self, of: Callable[[Record], float | None]) -> float | None:
        """Returns the median over the seeds of what was measured."""
        values = [value for record in self.records if (value := of(record)) is not None]
        return statistics.median(values) if values else None

    @property
    def kind(self) -> str:
        """MX or PF; empty where it means nothing."""
        return {True: "MX", False: "PF", None: ""}[self.setting.multiplexed]

    @property
    def shape(self) -> str:
        """Lookups and row width."""
        return f"{self.setting.lookups} x {self.setting.width}"

    @property
    def more(self) -> str:
        """The other keys that vary."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.setting.more)

    @property
    def name(self) -> str:
        """All of it, for a list."""
        method = f"{self.setting.method} {self.kind}".strip()
        codec = "" if self.codec == WHOLE else self.codec
        words = (method, self.setting.budget, self.shape, self.more, codec)
        return ", ".join(word for word in words if word)

    def to_json(self) -> dict[str, Any]:
        """Returns the group as plain JSON values."""
        found = {
            **asdict(self.setting),
            "more": dict(self.setting.more),
            "codec": self.codec,
            "status": self.status,
            "reason": self.reason,
            "missing": self.num_missing,
        }
        if self.status != "done":
            return found
        return found | {
            "auc": asdict(self.auc),
            "log_loss": self.middle(lambda record: record.log_loss),
            "embedding_bytes": self.embedding_bytes,
            "served_bytes": self.middle(lambda record: record.served_bytes),
            "table_bytes": self.middle(lambda record: record.table_bytes),
            "step_s": self.middle(lambda record: record.step_s),
            "training_s": self.middle(lambda record: record.training_s),
            "peak_bytes": self.middle(lambda record: record.peak_bytes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Multiplexed against per feature, all else equal."""

    multiplexed: Group
    per_feature: Group
    welch: Welch


def group_records(records: Iterable[Record]) -> list[Group]:
    """Returns the settings in the order in which they come."""
    found: dict[tuple[Setting, str], list[Record]] = {}
    for record in records:
        found.setdefault((_setting(record), record.codec), []).append(record)
    return [_group(setting, codec, each) for (setting, codec), each in found.items()]


def _setting(record: Record) -> Setting:
    return Setting(
        method=record.method,
        multiplexed=record.multiplexed,
        budget=record.budget,
        lookups=record.lookups,
        width=record.width,
        more=record.more,
    )


def _group(setting: Setting, codec: str, records: Sequence[Record]) -> Group:
    done = tuple(record for record in records if record.auc is not None)
    others = [record for record in records if record.auc is None]
    return Group(
        setting=setting,
        codec=codec,
        records=done,
        status="done" if done else others[0].status,
        reason=others[0].reason if others else None,
        num_missing=len(others),
    )


def front(groups: Iterable[Group]) -> list[Group]:
    """Returns the groups that no smaller or equal one beats, from small to large."""
    found: list[Group] = []
    measured = [group for group in groups if group.status == "done"]
    for group in sorted(measured, key=lambda each: (each.embedding_bytes, -each.auc.mean)):
        if not found or group.auc.mean > found[-1].auc.mean:
            found.append(group)
    return found


def recommended(groups: Iterable[Group], max_auc_loss: float) -> Group:
    """Returns the cheapest of the groups whose mean AUC is within `max_auc_loss` of the best."""
    best = front(groups)
    return next(group for group in best if group.auc.mean >= best[-1].auc.mean - max_auc_loss)


def missing(groups: Sequence[Group]) -> list[Group]:
    """Returns the groups without a result; codecs of a table that does not exist are left out."""
    done = {group.setting for group in groups if group.status == "done"}
    return [
        group
        for group in groups
        if group.status != "done" and (group.codec == WHOLE or group.setting in done)
    ]


def comparisons(groups: Sequence[Group]) -> list[Comparison]:
    """Returns every pair of trained tables that differ in nothing but multiplexing."""
    done = {each.setting: each for each in groups if each.status == "done" and each.codec == WHOLE}
    found = []
    for setting, group in done.items():
        other = done.get(replace(setting, multiplexed=False))
        if setting.multiplexed and other is not None:
            difference = welch(group.aucs, other.aucs)
            found.append(Comparison(multiplexed=group, per_feature=other, welch=difference))
    return found


def job_lines(group: Group) -> str:
    """Returns what to write in the job file to get this table."""
    setting = group.setting
    table: dict[str, Any] = {"method": setting.method}
    if setting.multiplexed is not None:
        table["multiplexed"] = setting.multiplexed
    if setting.budget is not None:
        table["budget"] = setting.budget
    tree: dict[str, Any] = {"table": {**table, "lookups": setting.lookups, "width": setting.width}}
    for key, value in setting.more:
        apply_override(tree, f"{key}={value}")
    return toml_text(tree)
