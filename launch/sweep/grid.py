"""The points of a sweep: every combination of the axes, each a whole job.

Where lookups vary, the row width follows, so that an embedding keeps its columns: total // lookups
in the methods that lay lookups side by side, total in those that combine them. Axes that mean
nothing to a method are left out of its points, and equal points are one:

    hash     one lookup
    exact    one lookup, neither multiplexed nor per feature, of whatever size it takes
    dhe      hashes are its own: one lookup

A job whose table has rows instead of a budget is swept at the bytes of these rows.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError
from launch.settings import apply_override, parse_job
from trainer.representations.budget import row_bytes

if TYPE_CHECKING:
    from trainer.job import Job

_ONE_LOOKUP = frozenset({"hash", "exact", "dhe"})
# Methods whose embedding is table.width wide, however many lookups it is made of.
_COMBINING = frozenset({"hash_embedding", "qr", "dhe", "tt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What varies; None leaves to every point what the job says."""

    seeds: tuple[int, ...]
    hash_seeds: tuple[int, ...] | None = None
    """None: the hash seed of a point is its seed."""
    methods: tuple[str, ...] | None = None
    multiplexed: tuple[bool, ...] | None = None
    budgets: tuple[str, ...] | None = None
    lookups: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    more: Mapping[str, tuple[str, ...]]
    """Values, as TOML writes them, of other keys of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the seeds of a point have in common."""

    method: str
    multiplexed: bool | None
    """None where it means nothing to the method."""
    budget: str | None
    lookups: int
    width: int
    """table.width."""
    more: tuple[tuple[str, str], ...] = ()
    """Other keys that vary, with their values as TOML writes them."""

    @property
    def columns(self) -> int:
        """Columns of a feature's embedding."""
        return self.width if self.method in _COMBINING else self.lookups * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One training."""

    setting: Setting
    seed: int
    hash_seed: int
    job: Job


def make_points(tree: Mapping[str, Any], where: str, axes: Axes) -> list[Point]:
    """Returns the points, all settings of a seed before the next seed.

    `tree` is the job as it is written, `where` names it in messages. Raises ConfigError for a job
    that is none, and for more lookups than an embedding has columns.
    """
    job = parse_job(tree, where)
    if job.data.valid is None and job.data.test is None:
        raise ConfigError(
            f"{where}: there are no rows to compare tables on",
            "name files with labels that are not trained on, as data.valid or data.test",
        )
    settings = _settings(job, axes, where)
    pairs = [
        (seed, hash_seed)
        for seed in axes.seeds
        for hash_seed in ((seed,) if axes.hash_seeds is None else axes.hash_seeds)
    ]
    return [
        Point(
            setting=setting,
            seed=seed,
            hash_seed=hash_seed,
            job=_job(tree, where, setting, seed, hash_seed),
        )
        for seed, hash_seed in pairs
        for setting in settings
    ]


def _settings(job: Job, axes: Axes, where: str) -> list[Setting]:
    table = job.table
    own = table.lookups
    if not isinstance(own, int):
        raise ConfigError(
            f'{where}: table.lookups is "{own}", and a sweep keeps the columns of an embedding, '
            "which then depend on the data",
            "give a number: --set table.lookups=2",
        )
    total = table.width if table.method in _COMBINING else own * table.width
    budget = table.budget
    if table.rows is not None and "table.rows" not in axes.more:
        budget = f"{table.rows * row_bytes(table.width)} B"
    named = [[(key, value) for value in values] for key, values in axes.more.items()]
    combinations = itertools.product(
        axes.methods or (table.method,),
        (table.multiplexed,) if axes.multiplexed is None else axes.multiplexed,
        axes.budgets or (budget,),
        axes.lookups or (own,),
        axes.widths or (None,),
        list(itertools.product(*named)),
    )
    found: dict[Setting, None] = {}
    for method, multiplexed, size, lookups, width, more in combinations:
        count = 1 if method in _ONE_LOOKUP else lookups
        setting = Setting(
            method=method,
            multiplexed=None if method == "exact" else multiplexed,
            budget=None if method == "exact" else size,
            lookups=count,
            width=_width(total, count, method) if width is None else width,
            more=more,
        )
        found[setting] = None
    return list(found)


def _width(total: int, lookups: int, method: str) -> int:
    if method in _COMBINING:
        return total
    if lookups > total:
        raise ConfigError(
            f"{lookups} lookups for each value, and an embedding has {total} columns",
            "leave them out of --lookups, or give --widths",
        )
    return total // lookups


def _job(tree: Mapping[str, Any], where: str, setting: Setting, seed: int, hash_seed: int) -> Job:
    own: dict[str, Any] = copy.deepcopy(dict(tree))
    for key, value in setting.more:
        apply_override(own, f"{key}={value}")
    table = own.setdefault("table", {})
    table |= {
        "method": setting.method,
        "lookups": setting.lookups,
        "width": setting.width,
        "hash_seed": hash_seed,
    }
    if setting.multiplexed is not None:
        table["multiplexed"] = setting.multiplexed
    if setting.budget is not None:
        table["budget"] = setting.budget
        table.pop("rows", None)
    elif setting.method == "exact":
        table.pop("budget", None)
        table.pop("rows", None)
    own["train"] = {**own.get("train", {}), "seed": seed, "threads": 1}
    every = own.get("run", {}).get("checkpoint_every")
    own["run"] = {"keep": 1, "tensorboard": False}
    if every is not None:
        own["run"]["checkpoint_every"] = every
    return parse_job(own, where)
