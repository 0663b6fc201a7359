"""Carrying a trained model on in another run: with new data, and features added or dropped.

    parent      a run, or one of its checkpoints: `run.parent`, or `train --from`
    refused     what would make old rows mean something else (`trainer.evolve_changes`)
    profile     the parent's for features it knew, a pass over the new data for the others
    layout      recorded regions stay, new features join or get rows (`trainer.evolve_layout`)
    rows        copied by region with their optimizer's state (`trainer.evolve_rows`)
    tower       copied by columns; new inputs start at zero (`trainer.evolve_tower`)

The new run begins at step 0 of its own data, and its first checkpoint is the model as it was taken
over, so that nothing of the parent is needed again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from features.dense import build_transforms
from features.errors import ConfigError
from features.parquet import Dataset
from features.profile import Profile
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import TableSettings
from features.statistics import FeatureStatistics
from storage.chain import Checkpoint
from trainer import saving
from trainer.dense_optimizer import DenseOptimizer
from trainer.evolve_changes import Changes, compare
from trainer.evolve_layout import evolved_layout
from trainer.evolve_rows import fill_table
from trainer.evolve_tower import Inputs, carry_tower, why_fresh
from trainer.job import Job
from trainer.latest import NAME
from trainer.model import Model
from trainer.representations.registry import build_layout
from trainer.run import Run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parent:
    """A trained model that another run carries on."""

    run: Run
    which: str | int
    """Which of its checkpoints: "best", or that of a step."""
    step: int
    feature_set: FeatureSet
    profile: Profile
    layout: Layout

    def open(self) -> Checkpoint:
        """Opens the checkpoint; what is read of it is compared with its crc32."""
        return saving.open_checkpoint(self.run.checkpoints, self.which, "lazy")

    @property
    def inputs(self) -> Inputs:
        """What enters its tower."""
        return _inputs(self.layout, self.feature_set, self.profile)


def open_parent(path: Path) -> Parent:
    """Opens a run's folder (its best model) or one of its checkpoints; ConfigError for others."""
    folder, which = path, "best"
    if not (path / "job.json").exists() and NAME.fullmatch(path.name):
        folder, which = path.parent.parent, path.name.split("-")[1]
    if not (folder / "job.json").exists():
        raise ConfigError(
            f'"{path}" is neither a run nor a checkpoint in the folder of one',
            "name the run.dir of a training, or a folder of its checkpoints/",
        )
    run = Run.open(folder)
    chosen = int(which) if which.isdigit() else which
    job = run.job
    with saving.open_checkpoint(run.checkpoints, chosen, "lazy") as checkpoint:
        return Parent(
            run=run,
            which=chosen,
            step=saving.state_in(checkpoint).step,
            feature_set=FeatureSet.build(job.data, job.features, job.feature, job.table),
            profile=run.profile(),
            layout=saving.layout_in(checkpoint),
        )


def parent_of(job: Job, base: Path) -> Parent | None:
    """Returns what a job carries on from, None where it begins from nothing."""
    return None if job.run.parent is None else open_parent(base / job.run.parent)


def changes_of(
    parent: Parent, job: Job, feature_set: FeatureSet, datasets: Mapping[str, Dataset]
) -> Changes:
    """Returns what becomes of every feature where a job carries a parent on."""
    return compare(
        parent.run.job,
        job,
        parent.layout,
        parent.feature_set,
        feature_set,
        parent.profile,
        datasets,
    )


def merged_profile(parent: Parent, fresh: Profile) -> Profile:
    """Returns the profile of a run that carries a parent on, from that of the new data.

    What the parent knew of a feature stays: its vocabulary, its quantiles, its mean are part of
    what the model means.
    """
    known = {feature.name for feature in (*parent.feature_set.features, *parent.feature_set.dense)}
    old = parent.profile
    return replace(
        fresh,
        categorical={
            name: old.categorical[name] if name in known else seen
            for name, seen in fresh.categorical.items()
        },
        dense={
            name: old.dense[name] if name in known else seen for name, seen in fresh.dense.items()
        },
    )


def layout_for(
    feature_set: FeatureSet,
    statistics: FeatureStatistics | None,
    settings: TableSettings,
    parent: Parent | None,
) -> Layout:
    """Returns the layout of a run: from its settings, or where it carries one on, from what was
    recorded. Raises ConfigError, DataError or PlanError."""
    if parent is None:
        return build_layout(feature_set, statistics, settings)
    return evolved_layout(feature_set, statistics, settings, parent.layout)


def why_tower_is_fresh(
    parent: Parent,
    job: Job,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    layout: Layout,
) -> str | None:
    """Says why the parent's tower cannot be carried over, None where it can."""
    new = _inputs(layout, feature_set, statistics)
    return why_fresh(parent.run.job.tower, job.tower, parent.inputs, new)


def take_over(
    parent: Parent,
    job: Job,
    feature_set: FeatureSet,
    statistics: FeatureStatistics,
    model: Model,
    optimizer: DenseOptimizer,
) -> str:
    """Fills an untrained model and its optimizers with what the parent learned.

    Returns what became of the tower. Collective where there are several ranks.
    """
    with parent.open() as checkpoint:
        fill_table(model.engine, checkpoint, parent.layout, model.layout, job.train.seed)
        reason = why_tower_is_fresh(parent, job, feature_set, statistics, model.layout)
        if reason is not None:
            return f"the tower starts fresh: {reason}"
        old, new = parent.inputs, _inputs(model.layout, feature_set, statistics)
        keeps_state = parent.run.job.train.optimizer == job.train.optimizer
        carry_tower(
            model.tower, optimizer if keeps_state else None, checkpoint, job.tower, old, new
        )
    if keeps_state:
        return "the tower is carried over"
    return "the tower is carried over, and its optimizer starts fresh: it is another one"


def _inputs(layout: Layout, feature_set: FeatureSet, statistics: FeatureStatistics) -> Inputs:
    return Inputs(
        embedded=tuple((route.name, route.width_total) for route in layout.routes),
        dense=tuple(
            (each.feature.name, each.width) for each in build_transforms(feature_set, statistics)
        ),
    )
