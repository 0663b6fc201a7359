"""`muxtable plan`: rows, bytes, collisions and peak memory of a job, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError, DataError
from launch.console import Column, Output, facts, size_text, table
from launch.progress import PassProgress
from launch.settings import load_job
from launch.targets import JobPath, Overrides, run_folder

if TYPE_CHECKING:
    from features.parquet import Dataset
    from features.profile import Profile
    from features.schema import FeatureSet
    from trainer.forecast import Forecast
    from trainer.job import Job
    from trainer.plan import FeaturePlan, Plan


def command(
    ctx: typer.Context,
    job_path: JobPath,
    overrides: Overrides = None,
    profile_path: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="A profile.json of the same data."),
    ] = None,
) -> None:
    """Forecast a job: collisions of every feature, rows, bytes on disk and the peak of memory."""
    output: Output = ctx.obj
    job = load_job(job_path, overrides or ())
    from features.parquet import open_dataset
    from features.schema import FeatureSet
    from trainer.forecast import forecast_memory, measure_libraries
    from trainer.plan import make_plan

    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    parts = {part: getattr(job.data, part) for part in ("train", "valid", "test")}
    datasets = {
        part: open_dataset(patterns, job_path.parent)
        for part, patterns in parts.items()
        if patterns is not None
    }
    for each in datasets.values():
        each.check(feature_set)
    dataset = datasets["train"]
    folder = run_folder(job, job_path)
    profile = find_profile(job, dataset, feature_set, folder, profile_path, output)
    classes = {name: seen.key_class for name, seen in profile.categorical.items()}
    for each in datasets.values():
        each.check(feature_set, classes)
    plan = make_plan(job, feature_set, profile)
    output.note("measuring what the libraries take, in a process of their own")
    libraries = measure_libraries()
    memory = forecast_memory(job, plan, feature_set, profile, dataset, libraries)
    document = {"rows_of_data": dataset.num_rows, **plan.to_json(), "peak": memory.to_json()}
    output.result(document, lambda console: _render(console, job, plan, memory, profile))


def find_profile(
    job: Job,
    dataset: Dataset,
    feature_set: FeatureSet,
    folder: Path,
    path: Path | None,
    output: Output,
) -> Profile:
    """Returns the given profile, the run's, or a new one of one pass over the data."""
    from features.profile import Profile, build_profile

    if path is None and (folder / "profile.json").is_file() and (folder / "job.json").is_file():
        path = folder / "profile.json"
        profile = Profile.from_bytes(path.read_bytes())
        if _fits(profile, dataset, feature_set):
            return profile
        output.note(f"{path} is of other data or features; reading the data once")
    elif path is not None:
        try:
            profile = Profile.from_bytes(path.read_bytes())
        except OSError as exc:
            raise ConfigError(
                f"--profile {path}: {exc.strerror}", "name a profile.json, or leave it out"
            ) from exc
        if not _fits(profile, dataset, feature_set):
            raise DataError(
                f"{path} is the profile of other data or features",
                "leave --profile out: one pass over the data makes a new one",
            )
        return profile
    with PassProgress(output, "profile") as progress:
        return build_profile(dataset, feature_set, job.table, progress)


def _fits(profile: Profile, dataset: Dataset, feature_set: FeatureSet) -> bool:
    return profile.data_digest == dataset.digest() and (
        set(profile.categorical) == {feature.name for feature in feature_set.features}
    )


def _render(console: Console, job: Job, plan: Plan, memory: Forecast, profile: Profile) -> None:
    console.print(feature_table(plan.features))
    console.print(facts("table", _table_facts(job, plan)))
    rows: list[tuple[str, Any]] = [(part, size_text(size)) for part, size in memory.parts]
    console.print(facts(f"peak memory of training: {size_text(memory.peak_bytes)}", rows))
    positive = "" if profile.positives is None else f", {profile.positives / profile.rows:.4f} of 1"
    console.print(f"from {profile.rows:,} rows of training data{positive}")


def feature_table(features: tuple[FeaturePlan, ...]) -> Any:
    """Returns the printed table of what becomes of each feature."""
    columns = [
        Column("feature", right=False),
        Column("kind", right=False),
        Column("values"),
        Column("lookups"),
        Column("region", right=False),
        Column("rows"),
        Column("co-residents"),
        Column("collide in all"),
    ]
    rows = [
        (
            f.name,
            f.kind,
            f"{f.cardinality:,}",
            f.num_lookups,
            f.region,
            f"{f.region_rows:,}",
            "-" if f.is_exact else _short(f.co_residents),
            "-" if f.is_exact else _short(f.lost_values),
        )
        for f in features
    ]
    return table("features", columns, rows)


def _short(value: float) -> str:
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table_facts(job: Job, plan: Plan) -> list[tuple[str, Any]]:
    budget = "" if job.table.budget is None else f" of {job.table.budget}"
    shared = ", multiplexed" if plan.is_multiplexed else ", per feature"
    return [
        ("method", plan.method + ("" if plan.method == "exact" else shared)),
        ("rows", f"{plan.rows:,} of width {plan.width}"),
        ("parameters", f"{size_text(plan.parameter_bytes)}{budget}"),
        ("in memory", f"{size_text(plan.memory.weight_bytes)} ({plan.engine})"),
        ("optimizer state", f"{size_text(plan.memory.state_bytes)} ({job.table.optimizer})"),
        ("embedding", f"{plan.out_width} wide, {plan.num_dense} dense columns beside it"),
        ("tower", f"{plan.tower_parameters:,} parameters, {size_text(plan.tower_bytes)}"),
        ("a checkpoint", size_text(plan.checkpoint_bytes)),
        ("on disk, at most", f"{size_text(plan.disk_bytes)} (run.keep = {job.run.keep})"),
    ]
