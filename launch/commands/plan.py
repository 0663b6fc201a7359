"""`muxtable plan`: rows, bytes, collisions and peak memory of a job, before any training."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from features.errors import ConfigError, DataError
from launch.against import Against
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
    from trainer.remedies import Peak, Remedy
    from trainer.traffic import Traffic


def command(
    ctx: typer.Context,
    job_path: JobPath,
    overrides: Overrides = None,
    profile_path: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="A profile.json of the same data."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ranks the training is to have.")] = 1,
    memory_text: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Memory a worker may take; unset: its share of this machine's.",
        ),
    ] = None,
    against_path: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="RUN|CHECKPOINT",
            help="Say what of this trained model the job would carry on.",
        ),
    ] = None,
) -> int | None:
    """Forecast a job: collisions, rows, bytes in memory, on disk and on the wire; what fits."""
    output: Output = ctx.obj
    job = load_job(job_path, overrides or ())
    from features.parquet import open_dataset
    from features.schema import FeatureSet
    from trainer.forecast import forecast_memory, measure_libraries
    from trainer.plan import make_plan
    from trainer.representations.registry import build_layout
    from trainer.traffic import measure_traffic

    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    parts = {part: getattr(job.data, part) for part in ("train", "valid", "test")}
    datasets = {
        part: open_dataset(patterns, job_path.parent)
        for part, patterns in parts.items()
        if patterns is not None
    }
    for each in datasets.values():
        each.check(feature_set)
    against = Against.of(against_path, job, job_path.parent, datasets)
    if against is not None:
        job, feature_set = against.job, against.feature_set
        if against.changes.refusals:
            output.result({"against": against.to_json()}, against.render)
            return 2
    dataset = datasets["train"]
    folder = run_folder(job, job_path)
    profile = find_profile(job, dataset, feature_set, folder, profile_path, output)
    recorded = None
    if against is not None:
        # Of a table that is carried on, edits change nothing: it has the rows it has.
        against, profile, recorded = against.carried_on(profile)
    else:
        job = _with_lookups(job, profile, folder, output)
        feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    classes = {name: seen.key_class for name, seen in profile.categorical.items()}
    for each in datasets.values():
        each.check(feature_set, classes)
    limit = worker_memory(memory_text, workers)
    plan = make_plan(job, feature_set, profile, world_size=workers, recorded=recorded)
    output.note("measuring what the libraries take, in a process of their own")
    libraries = measure_libraries()

    def forecast(changed: Job, ranks: int) -> Forecast:
        changed_plan = make_plan(changed, feature_set, profile, world_size=ranks, recorded=recorded)
        return forecast_memory(changed, changed_plan, feature_set, profile, dataset, libraries)

    memory = forecast(job, workers)
    fit = Fit.of(memory.peak_bytes, limit, job, workers, lambda *case: forecast(*case).peak_bytes)
    traffic = None
    if workers > 1:
        layout = recorded or build_layout(feature_set, profile, job.table)
        traffic = measure_traffic(job, plan, layout, dataset, feature_set, profile, workers)
    document = {
        "rows_of_data": dataset.num_rows,
        **plan.to_json(),
        "peak": memory.to_json(),
        "fit": fit.to_json(),
        "wire": None if traffic is None else traffic.to_json(),
        "against": None if against is None else against.to_json(),
    }

    def render(console: Console) -> None:
        if against is not None:
            against.render(console)
        _render(console, job, plan, memory, profile)
        if traffic is not None:
            console.print(facts(f"on the wire at each step, {workers} workers", _wire(traffic)))
        console.print(facts(*_fit_facts(fit, workers)))

    output.result(document, render)
    # Only a limit that was stated can be missed.
    return 2 if memory_text is not None and not fit.is_met else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether each worker fits into its memory, and what to change where not."""

    limit_bytes: int
    peak_bytes: int
    remedies: tuple[Remedy, ...]

    @classmethod
    def of(cls, peak_bytes: int, limit_bytes: int, job: Job, workers: int, peak: Peak) -> Fit:
        """Compares the peak with the limit, and looks for edits where it is above."""
        from trainer.remedies import find_remedies

        is_met = peak_bytes <= limit_bytes
        remedies = () if is_met else find_remedies(job, workers, limit_bytes, peak)
        return cls(limit_bytes=limit_bytes, peak_bytes=peak_bytes, remedies=remedies)

    @property
    def is_met(self) -> bool:
        """Whether the peak is within the limit."""
        return self.peak_bytes <= self.limit_bytes

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as plain JSON values."""
        return {"is_met": self.is_met, **asdict(self)}


def _with_lookups(job: Job, profile: Profile, folder: Path, output: Output) -> Job:
    """Returns the job with the lookups that its run has, or as far as is known will have."""
    from trainer.lookups import foreseen
    from trainer.run import Run

    recorded = Run.open(folder).lookups if (folder / "job.json").exists() else None
    if job.table.lookups == "pilot" and recorded is None:
        output.note("a pilot chooses lookups when training begins; planned as it starts: 2 each")
    return foreseen(job, profile, recorded)


def worker_memory(text: str | None, workers: int) -> int:
    """Returns the bytes a worker may take: as stated, else its share of this machine's memory."""
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers
    from features.settings import parse_size

    try:
        return parse_size(text)
    except ValueError as exc:
        raise ConfigError(f"--memory: {exc}", 'write a size such as "8 GiB"') from exc


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
    rows: list[tuple[str, Any]] = [(part, size_text(size)) for part, size in memory.parts if size]
    whose = "" if plan.world_size == 1 else f" of each of {plan.world_size} workers"
    console.print(facts(f"peak memory{whose}: {size_text(memory.peak_bytes)}", rows))
    positive = "" if profile.positives is None else f", {profile.positives / profile.rows:.4f} of 1"
    console.print(f"from {profile.rows:,} rows of training data{positive}")


def _wire(traffic: Traffic) -> list[tuple[str, Any]]:
    return [
        ("exchange", size_text(traffic.exchange_bytes)),
        ("torchrec", size_text(traffic.torchrec_bytes)),
        ("tower's gradients", size_text(traffic.tower_bytes)),
        (
            "rows of a worker",
            f"{traffic.distinct_rows:,.0f} distinct of {traffic.lookups:,.0f} looked up",
        ),
    ]


def _fit_facts(fit: Fit, workers: int) -> tuple[str, list[tuple[str, Any]]]:
    each = "a worker" if workers > 1 else "this job"
    need, limit = size_text(fit.peak_bytes), size_text(fit.limit_bytes)
    if fit.is_met:
        return f"{each} fits: {need} of {limit}", []
    is_enough = any(remedy.peak_bytes <= fit.limit_bytes for remedy in fit.remedies)
    what = "what would help" if is_enough else "what would help, though none is enough alone"
    title = f"{each} does not fit: {need}, and there are {limit}; {what}"
    return title, [(r.edit, f"{size_text(r.peak_bytes)} at the peak") for r in fit.remedies]


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


def _rank_facts(plan: Plan) -> list[tuple[str, Any]]:
    if plan.world_size == 1:
        return []
    return [("rows of a worker", f"{plan.rank_rows:,}")]


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
        *_rank_facts(plan),
        ("in memory", f"{size_text(plan.memory.weight_bytes)} ({plan.engine})"),
        ("optimizer state", f"{size_text(plan.memory.state_bytes)} ({job.table.optimizer})"),
        ("embedding", f"{plan.out_width} wide, {plan.num_dense} dense columns beside it"),
        ("tower", f"{plan.tower_parameters:,} parameters, {size_text(plan.tower_bytes)}"),
        ("a checkpoint", size_text(plan.checkpoint_bytes)),
        ("on disk, at most", f"{size_text(plan.disk_bytes)} (run.keep = {job.run.keep})"),
    ]
