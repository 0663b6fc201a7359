"""The plan of a job: what its table, its collisions and its memory will be, before any training.

Everything is a pure function of the job, the profile of its data and the files' footers; torch is
not needed. The peak memory is a forecast (`trainer.forecast`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from features.collisions import forecast as expected_collisions
from features.dense import build_transforms
from features.routing import FeatureRoute, Layout
from features.schema import FeatureSet
from features.statistics import FeatureStatistics
from sharding.bounds import shard_bounds
from sharding.footprint import Footprint, footprint, resolve_engine
from trainer.job import Job
from trainer.lookups import feature_set_of, foreseen
from trainer.representations.registry import build_layout
from trainer.tower_size import num_parameters

_FLOAT_BYTES = 4
# Optimizer state of the tower, in floats for each parameter.
_TOWER_STATE = {"adam": 2, "adamw": 2, "adagrad": 1, "sgd": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """What becomes of one feature."""

    name: str
    kind: str
    cardinality: int
    is_exact: bool
    num_lookups: int
    width: int
    region: str
    region_rows: int
    co_residents: float
    """Other values of the feature expected in a value's row, for each lookup."""
    lost_values: float
    """Values expected to meet another value of the feature in every lookup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job will make of its data."""

    method: str
    is_multiplexed: bool
    engine: str
    rows: int
    width: int
    out_width: int
    num_dense: int
    features: tuple[FeaturePlan, ...]
    parameter_bytes: int
    """Of the table, without padding: what the budget limits."""
    memory: Footprint
    """Of a rank's part of the table with its padding, and of its optimizer's state."""
    reader_floats: int
    """Numbers that readers keep for a sample; 0 where rows stand side by side."""
    tower_parameters: int
    world_size: int
    rank_rows: int
    """Rows of the rank that has most of them; `memory` is that rank's."""
    checkpoint_bytes: int
    disk_bytes: int
    """All checkpoints that are kept, and the one that is being written."""

    @property
    def tower_bytes(self) -> int:
        """Bytes of the tower's parameters."""
        return self.tower_parameters * _FLOAT_BYTES

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as plain JSON values."""
        tree = asdict(self)
        tree["features"] = [asdict(feature) for feature in self.features]
        return tree


def make_plan(
    job: Job,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    device_type: str = "cpu",
    world_size: int = 1,
    recorded: Layout | None = None,
) -> Plan:
    """Returns the plan of a job on data with these statistics; PlanError where it cannot fit.

    `recorded` is the layout of its table where that does not follow from the settings, because it
    carries another one on.
    """
    if recorded is None:
        job = foreseen(job, statistics)
        feature_set = feature_set_of(job)
    layout = build_layout(feature_set, statistics, job.table) if recorded is None else recorded
    num_dense = sum(each.width for each in build_transforms(feature_set, statistics))
    engine = resolve_engine(job.table, device_type, world_size)
    rank_rows = shard_bounds(layout.rows, world_size)[1]
    memory = footprint(engine, rank_rows, layout.width, job.table.optimizer)
    widths = [route.width_total for route in layout.routes]
    tower = num_parameters(job.tower, widths, num_dense)
    checkpoint = _checkpoint_bytes(job, layout, tower)
    return Plan(
        method=job.table.method,
        is_multiplexed=job.table.multiplexed,
        engine=engine,
        rows=layout.rows,
        width=layout.width,
        out_width=layout.out_width,
        num_dense=num_dense,
        features=feature_plans(layout, statistics),
        parameter_bytes=layout.rows * layout.width * _FLOAT_BYTES,
        memory=memory,
        reader_floats=_reader_floats(layout, statistics),
        tower_parameters=tower,
        world_size=world_size,
        rank_rows=rank_rows,
        checkpoint_bytes=checkpoint,
        # The best one may be older than all that are kept for their age; and it and the oldest of
        # those may be deltas, whose bases then stay.
        disk_bytes=checkpoint * (job.run.keep + (4 if job.run.deltas else 2)),
    )


def feature_plans(layout: Layout, statistics: FeatureStatistics) -> tuple[FeaturePlan, ...]:
    """Returns what becomes of each embedded feature, in the order of the embedding."""
    cardinality = {
        route.name: statistics.categorical[route.name].cardinality for route in layout.routes
    }
    expected = {each.feature: each for each in expected_collisions(layout, cardinality)}
    return tuple(
        FeaturePlan(
            name=route.name,
            kind=route.feature.kind,
            cardinality=cardinality[route.name],
            is_exact=route.vocabulary is not None,
            num_lookups=route.feature.num_lookups,
            width=route.width_total,
            region=_region_name(route, layout),
            region_rows=route.region_rows,
            co_residents=expected[route.name].co_residents,
            lost_values=expected[route.name].values_in_all_lookups,
        )
        for route in layout.routes
    )


def tower_state_floats(optimizer: str) -> int:
    """Returns the floats of optimizer state that a parameter of the tower has."""
    return _TOWER_STATE[optimizer]


def _reader_floats(layout: Layout, statistics: FeatureStatistics) -> int:
    floats = 0.0
    for route in layout.routes:
        if route.reader is not None:
            seen = statistics.categorical[route.name]
            values = (seen.num_values + seen.null_count) / max(seen.rows, 1)
            floats += route.reader.floats_per_value * (values if route.feature.is_bag else 1)
    return round(floats)


def _region_name(route: FeatureRoute, layout: Layout) -> str:
    kinds = {region.name: region.kind for region in layout.regions}
    if kinds[route.region] == "exact":
        return "exact"
    return "shared" if route.region == "shared" else "own"


def _checkpoint_bytes(job: Job, layout: Layout, tower: int) -> int:
    """On disk rows are unpadded; FBGEMM's padding is not written either."""
    row = layout.width * _FLOAT_BYTES
    state = {"sgd": 0, "rowwise_adagrad": _FLOAT_BYTES, "adagrad": row, "adam": 2 * row}
    table = layout.rows * (row + state[job.table.optimizer])
    dense = tower * _FLOAT_BYTES * (1 + tower_state_floats(job.train.optimizer))
    return table + dense + sum(keys.nbytes for keys in layout.vocabularies().values())
