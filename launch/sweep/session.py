"""From the points of a sweep to their records: what is stored is taken, the rest is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import ConfigError
from launch.cluster import connection
from launch.sweep.measure import WHOLE, Assignment, Outcome
from launch.sweep.record import Record
from launch.sweep.store import Store, point_key
from launch.sweep.summary import group_records
from launch.sweep.watch import PointsProgress

if TYPE_CHECKING:
    from features.schema import FeatureSet
    from launch.cluster.points import Order
    from launch.console import Output
    from launch.sweep.grid import Point
    from trainer.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A sweep that a signal ended."""

    signal: int
    num_done: int


def check_points(points: Sequence[Point], base: Path) -> dict[str, str]:
    """Returns the digests of the data by part; relative paths of the job start at `base`.

    Raises a MuxtableError for most mistakes of the job and its data: nothing has started yet.
    """
    from features.parquet import open_dataset

    digests = {}
    job = points[0].job
    for part in ("train", "valid", "test"):
        pattern = getattr(job.data, part)
        if pattern is not None:
            dataset = open_dataset(pattern, base)
            dataset.check(_features(job))
            digests[part] = dataset.digest()
    for point in points:
        _features(point.job)
        if point.job.data != job.data:
            raise ConfigError(
                "the points of a sweep are trained and compared on the same rows",
                "leave keys of [data] out of --grid, and make a sweep for each",
            )
    return digests


def run_sweep(
    points: Sequence[Point],
    data: Mapping[str, str],
    store: Store,
    base: Path,
    codecs: tuple[str, ...],
    order: Order,
    output: Output,
) -> list[Record] | Stopped:
    """Returns the records of all points, in their order; `data` is what `check_points` returned.

    Raises a MuxtableError for a mistake of the job or the cluster; what else became of a point is a
    record.
    """
    from muxtable import __version__

    by_key = {point_key(point, data, codecs, __version__): point for point in points}
    todo = [key for key in by_key if store.finished(key) is None]
    if todo:
        # A cluster's nodes need not share a disk: there a point's run goes with its task.
        is_local = connection.find_address(order.address) == connection.LOCAL
        signal = _train(
            {
                key: Assignment(
                    job=by_key[key].job,
                    base=base.absolute(),
                    folder=store.run_folder(key).absolute() if is_local else None,
                    codecs=codecs,
                )
                for key in todo
            },
            by_key,
            store,
            order,
            output,
        )
        if signal is not None:
            done = sum(store.finished(key) is not None for key in by_key)
            return Stopped(signal=signal, num_done=done)
    return [record for key in by_key for record in store.stored(key)]


def _features(job: Job) -> FeatureSet:
    from features.schema import FeatureSet

    return FeatureSet.build(job.data, job.features, job.feature, job.table)


def _train(
    assignments: dict[str, Assignment],
    by_key: dict[str, Point],
    store: Store,
    order: Order,
    output: Output,
) -> int | None:
    from launch.cluster.points import run_points

    with PointsProgress(output, len(by_key), len(by_key) - len(assignments)) as progress:

        def ended(key: str, outcome: Outcome) -> None:
            if outcome.is_mistake:
                raise ConfigError(outcome.what, outcome.fix)
            records = _records(key, by_key[key], (WHOLE, *assignments[key].codecs), outcome)
            store.add(key, records)
            progress.ended(_said(records[0]))

        return run_points(assignments, order, output, ended)


def _records(key: str, point: Point, codecs: Sequence[str], outcome: Outcome) -> list[Record]:
    from muxtable import __version__

    setting = point.setting
    lost = {"status": "lost", "reason": outcome.what}
    return [
        Record(
            method=setting.method,
            multiplexed=setting.multiplexed,
            budget=setting.budget,
            lookups=setting.lookups,
            width=setting.width,
            columns=setting.columns,
            more=setting.more,
            codec=codec,
            seed=point.seed,
            hash_seed=point.hash_seed,
            key=key,
            version=__version__,
            **outcome.by_codec.get(codec, lost),
        )
        for codec in codecs
    ]


def _said(record: Record) -> str:
    """Returns how a point ended, for a line."""
    (group,) = group_records([record])
    where = f"{group.name}, seed {record.seed}"
    if record.hash_seed != record.seed:
        where += f", hash seed {record.hash_seed}"
    if record.auc is None:
        return f"{where}: {record.status}: {record.reason}"
    return f"{where}: AUC {record.auc:.4f} in {record.wall_s:.0f} s"
