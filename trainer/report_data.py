"""Gathers what the report of a finished run shows: from its folder, its job and its data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from features.parquet import open_dataset
from features.profile import Profile
from features.schema import FeatureSet
from trainer import saving
from trainer.journal import read_journal
from trainer.measured import Measured, measure
from trainer.metrics import Metrics
from trainer.page import Facts
from trainer.plan import FeaturePlan, feature_plans
from trainer.report import FeatureFacts, Report, write_report
from trainer.run import Run
from trainer.toml import toml_text

_KIB = 1024
# Metrics people look at first come first.
_PART_ORDER = ("test", "valid")


def report_run(run: Run, command: str) -> Path:
    """Writes report.html of a finished run and returns its path.

    `command` is what started the run. Raises ConfigError where it is not finished.
    """
    path = run.path / "report.html"
    write_report(path, gather(run, command))
    return path


def gather(run: Run, command: str) -> Report:
    """Returns what the report shows."""
    result = run.result()
    if result is None:
        raise ConfigError(f'"{run.path}" is not finished', "run `muxtable train` to its end")
    job, profile = run.job, run.profile()
    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    # As recorded: that of a table that was grown or carried on does not follow from the job.
    with saving.open_checkpoint(run.checkpoints, "last", False) as checkpoint:
        layout = saving.layout_in(checkpoint)
    measured = measure(open_dataset(job.data.train, run.base), feature_set, layout)
    metrics = {
        part: Metrics.from_json(result["metrics"][part])
        for part in _PART_ORDER
        if part in result["metrics"]
    }
    memory, seconds = result["memory"], result["time"]["training_s"]
    return Report(
        title=_title(run),
        subtitle=_subtitle(result, profile),
        commands=[command],
        job_text=toml_text(job.model_dump(mode="json")),
        metrics=metrics,
        best_step=result["best_step"],
        journal=read_journal(run.journal),
        features=_features(feature_plans(layout, profile), measured),
        collisions_note=_note(measured),
        table=_table(run, result),
        data=_data(run, profile),
        timing=_timing(result),
        memory=_memory(memory),
        cards=[
            ("samples/s", f"{result['samples'] / seconds:,.0f}" if seconds else "-"),
            ("training", _duration(seconds)),
            ("table", _size(result["table"]["parameter_bytes"])),
            ("peak memory", _size(memory["peak_bytes"])),
        ],
        footer=_footer(),
    )


def _title(run: Run) -> str:
    return os.path.basename(os.path.abspath(run.path))  # noqa: PTH100, PTH119 - resolves no link


def _subtitle(result: Mapping[str, Any], profile: Profile) -> str:
    rows = result["rows"]["train"]
    end = "stopped early" if result["stopped_early"] else "trained to the end"
    epochs = result["samples"] / rows
    return (
        f"{len(profile.categorical)} embedded features, {rows:,} training rows, "
        f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}, {end} at step {result['steps']:,}"
    )


def _features(plans: tuple[FeaturePlan, ...], measured: Measured) -> list[FeatureFacts]:
    facts = []
    for plan in plans:
        counted = None if plan.is_exact else measured.collisions.get(plan.name)
        facts.append(
            FeatureFacts(
                name=plan.name,
                kind=plan.kind,
                cardinality=plan.cardinality,
                is_exact=plan.is_exact,
                num_lookups=plan.num_lookups,
                width=plan.width,
                region=plan.region,
                region_rows=plan.region_rows,
                expected_residents=plan.co_residents,
                expected_lost=plan.lost_values,
                measured_residents=None if counted is None else counted.co_residents,
                measured_lost=None if counted is None else round(counted.values_in_all_lookups),
            )
        )
    return facts


def _note(measured: Measured) -> str:
    if measured.is_whole or not measured.rows:
        return ""
    return f"Measured on the values of the first {measured.rows:,} rows."


def _table(run: Run, result: Mapping[str, Any]) -> Facts:
    table, settings = result["table"], run.job.table
    shared = "multiplexed" if settings.multiplexed else "per feature"
    budget = "" if settings.budget is None else f", budget {settings.budget}"
    return [
        (
            "method",
            settings.method if settings.method == "exact" else f"{settings.method}, {shared}",
        ),
        ("rows", f"{table['rows']:,} of width {table['width']}"),
        ("parameters", _size(table["parameter_bytes"]) + budget),
        ("with state", f"{_size(table['memory_bytes'])} in memory ({settings.optimizer})"),
        ("engine", table["engine"]),
        ("tower", f"{run.job.tower.kind}, {result['tower_parameters']:,} parameters"),
        ("hash seed", str(settings.hash_seed)),
    ]


def _data(run: Run, profile: Profile) -> Facts:
    facts = []
    for part, files in run.files().items():
        rows, size = (sum(file[key] for file in files) for key in ("rows", "size"))
        count = f"{len(files)} file{'s' if len(files) > 1 else ''}"
        facts.append((part, f"{rows:,} rows in {count}, {_size(size)}"))
    if profile.positives is not None:
        share = profile.positives / profile.rows
        facts.append(("positive", f"{profile.positives:,} of the training rows, {share:.4f}"))
    facts.append(("label", run.job.data.label))
    return facts


def _timing(result: Mapping[str, Any]) -> Facts:
    seconds = result["time"]["training_s"]
    return [
        ("steps", f"{result['steps']:,}"),
        ("samples", f"{result['samples']:,}"),
        ("training", f"{_duration(seconds)} with validation, over all starts"),
        ("last start", f"{_duration(result['time']['this_start_s'])} with reading and test"),
    ]


def _memory(memory: Mapping[str, Any]) -> Facts:
    peak, planned = memory["peak_bytes"], memory["planned_bytes"]
    facts = [("measured peak", f"{_size(peak)}, interpreter and libraries included")]
    if planned is not None:
        error = 100 * (planned - peak) / peak
        facts.insert(0, ("planned peak", f"{_size(planned)} ({error:+.1f} %)"))
    return facts


def _footer() -> str:
    try:
        release = version("muxtable")
    except PackageNotFoundError:
        release = "from a source tree"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Written by muxtable {release} with Python {platform.python_version()} on {now}."


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= _KIB
    return f"{num_bytes:.3g} GiB"
