"""Before training: the input opened and checked, read through once, and the run's folder taken."""

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from features.errors import DataError
from features.parquet import Dataset, open_dataset
from features.profile import Profile, build_profile
from features.schema import FeatureSet
from sharding.ranks import Ranks
from trainer.evolve import changes_of, layout_for, merged_profile, parent_of
from trainer.job import Job
from trainer.lookups import by_cardinality, feature_set_of, inherited, with_lookups
from trainer.order import rank_streams
from trainer.pilot import by_pilot
from trainer.progress import Progress
from trainer.representations.registry import build_layout
from trainer.run import PARTS, RunDirectory
from trainer.signals import Interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a run learns from."""

    feature_set: FeatureSet
    datasets: Mapping[str, Dataset]
    """By part: "train", and "valid" and "test" where the job has them."""
    profile: Profile


def begin_or_resume(
    directory: RunDirectory,
    progress: Progress,
    stop_requested: Callable[[], int | None],
    ranks: Ranks,
) -> Input:
    """Opens and checks the input, and takes the run's folder; Interrupted where asked to stop.

    Rank 0 reads the data through and takes the folder, while the others wait. Raises DataError on
    a rank that sees other files than rank 0.
    """
    job, base = directory.run.job, directory.run.base
    feature_set = feature_set_of(job)

    def open_all() -> dict[str, Dataset]:
        patterns = {part: getattr(job.data, part) for part in PARTS}
        opened = {part: open_dataset(p, base) for part, p in patterns.items() if p is not None}
        for dataset in opened.values():
            dataset.check(feature_set)
        return opened

    datasets = ranks.together(open_all)
    rank_streams(streams=job.data.streams, rank=ranks.rank, world_size=ranks.world_size)
    digests = {part: dataset.digest() for part, dataset in datasets.items()}

    def prepare() -> bytes:
        try:
            profile = _take(directory, feature_set, datasets, progress, stop_requested)
        except Interrupted:
            return b""
        run = directory.run
        facts = {"data": digests, "job": run.digest, "lookups": run.lookups}
        return json.dumps(facts).encode() + b"\n" + profile.to_bytes()

    answer = ranks.by_first(prepare)
    if not answer:
        raise Interrupted
    line, _, profile = answer.partition(b"\n")
    facts = json.loads(line)
    directory.run = directory.run.chosen(facts["job"], facts["lookups"])
    ranks.together(lambda: _check_same_files(digests, facts["data"]))
    return Input(
        feature_set=feature_set_of(directory.run.job),
        datasets=datasets,
        profile=Profile.from_bytes(profile),
    )


def _check_same_files(own: Mapping[str, str], first: Mapping[str, str]) -> None:
    for part, digest in first.items():
        if own.get(part) != digest:
            raise DataError(
                f"{socket.gethostname()} has other files of data.{part} than the machine of rank 0",
                "give every machine the same files under the same paths",
            )


def _take(
    directory: RunDirectory,
    feature_set: FeatureSet,
    datasets: Mapping[str, Dataset],
    progress: Progress,
    stop_requested: Callable[[], int | None],
) -> Profile:
    """Takes the run's folder and returns its profile, made now where the run begins."""
    job = directory.run.job
    if directory.has_begun:
        return directory.resume(datasets)
    parent = parent_of(job, directory.run.base)
    taken_over = None
    if parent is not None:
        taken_over = inherited(job, parent.feature_set)
        job = with_lookups(job, taken_over)
        feature_set = feature_set_of(job)
        changes_of(parent, job, feature_set, datasets).check(job.run.parent)
    dataset = datasets["train"]
    progress.stage("profile", dataset.num_rows)
    on_rows = _rows_done(progress, stop_requested)
    profile = build_profile(dataset, feature_set, job.table, progress=on_rows)
    if parent is not None:
        profile = merged_profile(parent, profile)
    # For their errors: what cannot be trained must not leave a folder behind.
    layout_for(feature_set, profile, job.table, parent)
    _check_key_classes(datasets, feature_set, profile)
    if taken_over is None:
        lookups = _lookups(job, dataset, profile, progress, stop_requested)
    else:
        lookups = None if isinstance(job.table.lookups, int) else taken_over
    directory.begin(datasets, profile, lookups)
    return profile


def _lookups(
    job: Job,
    dataset: Dataset,
    profile: Profile,
    progress: Progress,
    stop_requested: Callable[[], int | None],
) -> dict[str, int] | None:
    """Chooses the lookups of features where the job leaves them open, once for the whole run."""
    if isinstance(job.table.lookups, int):
        return None
    if job.table.lookups == "auto":
        chosen = by_cardinality(job, profile)
    else:
        progress.stage("pilot", None)
        chosen = by_pilot(job, dataset, profile, stop_requested)
    # For its errors: exact rows and narrow tables may have fitted with the other numbers only.
    changed = with_lookups(job, chosen)
    build_layout(feature_set_of(changed), profile, changed.table)
    said = ", ".join(f"{name} {count}" for name, count in chosen.items())
    progress.note(f"lookups by {job.table.lookups}: {said}")
    return chosen


def _check_key_classes(
    datasets: Mapping[str, Dataset], feature_set: FeatureSet, profile: Profile
) -> None:
    """Raises DataError where another part has strings for what was trained on integers, or so."""
    classes = {name: each.key_class for name, each in profile.categorical.items()}
    for dataset in datasets.values():
        dataset.check(feature_set, classes)


def _rows_done(
    progress: Progress, stop_requested: Callable[[], int | None]
) -> Callable[[int, int], None]:
    """Turns (rows done, rows in all) into rows added, and a request to stop into Interrupted."""
    before = 0

    def report(done: int, _total: int) -> None:
        nonlocal before
        progress.evaluated(done - before)
        before = done
        if stop_requested() is not None:
            raise Interrupted

    return report
