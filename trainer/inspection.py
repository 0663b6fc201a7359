"""The inspection of a trained table: collisions, use of the rows, norms, angles, worth of features.

    subject   rows of a checkpoint of any world size, or of a snapshot (decoded)
    values    what a data set holds of every feature (`trainer.inspection_values`)
    worth     needs the whole model and rows with labels, and loads it by itself

Memory: 24 bytes for each row of the table, 16 for each distinct value, and a block of rows; where
features are to be worth something the model, too. The data is streamed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.parquet import Dataset
from features.routing import Layout
from storage.chain import Checkpoint
from storage.snapshot import Snapshot
from trainer.evaluate import TrainedModel
from trainer.inspection_angles import Angles
from trainer.inspection_collisions import FeatureCollisions, count_collisions, count_rows
from trainer.inspection_gradients import MOST_ROWS as GRADIENT_ROWS
from trainer.inspection_gradients import gradient_angles
from trainer.inspection_layers import Parameters, layer_angles
from trainer.inspection_needs import FeatureNeed, NeedCurve, feature_needs, need_curves
from trainer.inspection_rows import (
    Norms,
    ReadRows,
    RegionUse,
    ShardLoad,
    measure_norms,
    region_uses,
    shard_loads,
)
from trainer.inspection_values import MOST_ROWS, MOST_VALUES, count_values
from trainer.inspection_worth import Worth, measure_worth
from trainer.saving import layout_in, state_in

_TOWER = "tower."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A trained table that is open for reading."""

    name: str
    digest: str
    """sha256 of its manifest."""
    step: int
    layout: Layout
    read_rows: ReadRows
    parameters: Parameters | None
    """The tower's, by name; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What only a whole model on rows with labels tells, or why it does not."""

    gradient_angles: Angles | str
    worth: Worth | str

    @classmethod
    def missing(cls, why: str) -> ModelFacts:
        """Where there is no model, or no data with labels."""
        return cls(gradient_angles=why, worth=why)

    @classmethod
    def measure(
        cls,
        trained: TrainedModel,
        dataset: Dataset,
        most_rows: int,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> ModelFacts:
        """Runs the model on rows spread over a data set; DataError where it does not fit."""
        worth = measure_worth(trained, dataset, most_rows, on_rows)
        angles = gradient_angles(trained, dataset, min(most_rows, GRADIENT_ROWS))
        return cls(gradient_angles=angles, worth=worth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What there is to say of a trained table; sentences say why a part is missing."""

    name: str
    digest: str
    step: int
    rows: int
    width: int
    data: str
    data_rows: int
    is_whole: bool
    """Whether all rows of the data were looked at."""
    collisions: tuple[FeatureCollisions, ...]
    apart: tuple[str, ...]
    """Features whose values a vocabulary, a dictionary or a network tells apart."""
    left_out: tuple[str, ...]
    """Features with too many values to count; no reads of theirs are counted either."""
    regions: tuple[RegionUse, ...]
    shards: tuple[ShardLoad, ...]
    norms: Norms
    layer_angles: Angles | str
    """Between what the first layers of the tower read."""
    gradient_angles: Angles | str
    """Between the gradients of the logit."""
    worth: Worth | str
    needs: tuple[FeatureNeed, ...]
    curves: tuple[NeedCurve, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain JSON values; what is missing is {"missing": why}."""
        tree = asdict(self)
        for part in ("layer_angles", "gradient_angles", "worth"):
            if isinstance(tree[part], str):
                tree[part] = {"missing": tree[part]}
        return tree


def checkpoint_subject(checkpoint: Checkpoint) -> Subject:
    """Returns the table of a checkpoint, which has to stay open; SnapshotError where it is none of
    a training."""
    names = [name for name in checkpoint.tensor_names if name.startswith(_TOWER)]
    return Subject(
        name=checkpoint.place.name,
        digest=checkpoint.digest,
        step=state_in(checkpoint).step,
        layout=layout_in(checkpoint),
        read_rows=lambda first, end: checkpoint.read_rows("table.weight", first, end),
        parameters={name.removeprefix(_TOWER): checkpoint.tensor(name) for name in names},
    )


def snapshot_subject(snapshot: Snapshot) -> Subject:
    """Returns the table of a snapshot, decoded."""
    return Subject(
        name=snapshot.name,
        digest=snapshot.digest,
        step=snapshot.record.lineage.step,
        layout=snapshot.layout,
        read_rows=lambda first, end: snapshot.vectors(np.arange(first, end)),
        parameters=None,
    )


def inspect(
    subject: Subject,
    dataset: Dataset,
    data: str,
    *,
    model: ModelFacts,
    init_scale: float | None = None,
    most_rows: int = MOST_ROWS,
    most_values: int = MOST_VALUES,
    threads: int = 1,
) -> Inspection:
    """Returns the inspection of a table on the values of a data set that is called `data`.

    Raises DataError where its files do not hold what the features need.
    """
    layout = subject.layout
    counted = count_values(dataset, layout, most_rows, most_values)
    counts = count_rows(layout, counted.features, threads)
    collisions = count_collisions(layout, counted.features, counts, threads)
    return Inspection(
        name=subject.name,
        digest=subject.digest,
        step=subject.step,
        rows=layout.rows,
        width=layout.width,
        data=data,
        data_rows=counted.rows,
        is_whole=counted.is_whole,
        collisions=collisions,
        apart=tuple(
            route.name
            for route in layout.routes
            if route.vocabulary is not None or not route.lookups
        ),
        left_out=counted.left_out,
        regions=region_uses(layout, counts),
        shards=shard_loads(layout, counts),
        norms=measure_norms(layout, counts, subject.read_rows, init_scale),
        layer_angles=(
            "A version holds no tower whose layers could be compared."
            if subject.parameters is None
            else layer_angles(layout, subject.parameters)
        ),
        gradient_angles=model.gradient_angles,
        worth=model.worth,
        needs=feature_needs(collisions),
        curves=need_curves(collisions),
    )
