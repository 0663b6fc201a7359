"""Before training: the input opened and checked, read through once, and the run's folder taken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from features.parquet import Dataset, open_dataset
from features.profile import Profile, build_profile
from features.schema import FeatureSet
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
    directory: RunDirectory, progress: Progress, stop_requested: Callable[[], int | None]
) -> Input:
    """Opens and checks the input, and takes the run's folder; Interrupted where asked to stop."""
    job, base = directory.run.job, directory.run.base
    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    patterns = {part: getattr(job.data, part) for part in PARTS}
    datasets = {part: open_dataset(p, base) for part, p in patterns.items() if p is not None}
    for dataset in datasets.values():
        dataset.check(feature_set)
    if directory.has_begun:
        profile = directory.resume(datasets)
    else:
        dataset = datasets["train"]
        progress.stage("profile", dataset.num_rows)
        on_rows = _rows_done(progress, stop_requested)
        profile = build_profile(dataset, feature_set, job.table, progress=on_rows)
        # For their errors: what cannot be trained must not leave a folder behind.
        build_layout(feature_set, profile, job.table)
        _check_key_classes(datasets, feature_set, profile)
        directory.begin(datasets, profile)
    return Input(feature_set=feature_set, datasets=datasets, profile=profile)


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
