import json
import subprocess
import sys
from pathlib import Path

import pytest

from features.errors import ConfigError, DataError, SnapshotError, TrainingError
from features.parquet import open_dataset
from features.profile import Profile, build_profile
from features.schema import FeatureSet
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.run import FREE_KEYS, Run, RunDirectory, digest_of, job_digest


@pytest.fixture
def clicks(tmp_path) -> Path:
    write_clicks(tmp_path, train=500, valid=100, test=100)
    return tmp_path


def parts_of(base: Path, job=None):
    job = job or clicks_job()
    return {part: open_dataset(getattr(job.data, part), base) for part in ("train", "valid")}


def profile_of(base: Path) -> Profile:
    job = clicks_job()
    features = FeatureSet.build(job.data, job.features, job.feature, job.table)
    return build_profile(parts_of(base)["train"], features, job.table)


def begin(base: Path, job=None) -> Path:
    path = base / "runs" / "clicks"
    with RunDirectory(path, job or clicks_job(), base) as directory:
        directory.begin(parts_of(base), profile_of(base))
    return path


def test_a_run_is_read_back_as_it_began(clicks) -> None:
    path = begin(clicks)

    run = Run.open(path)

    assert run.job == clicks_job()
    assert run.base == clicks
    assert run.profile().digest() == profile_of(clicks).digest()
    assert [entry["rows"] for entry in run.files()["train"]] == [250, 250]
    assert run.result() is None


def test_a_run_moved_with_its_data_still_finds_it(clicks, tmp_path_factory) -> None:
    begin(clicks)
    elsewhere = tmp_path_factory.mktemp("moved") / "there"

    clicks.rename(elsewhere)
    run = Run.open(elsewhere / "runs" / "clicks")

    assert run.base == elsewhere


def test_the_same_job_resumes_with_the_old_profile(clicks) -> None:
    path = begin(clicks)

    with RunDirectory(path, clicks_job(), clicks) as directory:
        has_begun = directory.has_begun
        profile = directory.resume(parts_of(clicks))

    assert has_begun
    assert profile.digest() == profile_of(clicks).digest()


def test_another_job_is_refused_key_by_key_and_changes_nothing(clicks) -> None:
    path = begin(clicks)
    before = {file: file.read_bytes() for file in path.iterdir()}
    other = clicks_job(train={"batch_size": 32, "epochs": 3}, feature={"user": {"lookups": 3}})

    with (
        RunDirectory(path, other, clicks) as directory,
        pytest.raises(ConfigError) as caught,
    ):
        directory.resume(parts_of(clicks))

    assert "train.batch_size was 64, is 32; train.epochs was 2, is 3" in caught.value.what
    assert "feature.user.lookups was not set, is 3" in caught.value.what
    assert "train.threads" not in caught.value.what
    assert {file: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("key", sorted(FREE_KEYS))
def test_keys_that_change_no_result_may_differ(key) -> None:
    part, name = key.split(".")
    values = {
        "prefetch": 9,
        "read_threads": 5,
        "checkpoint_every": 77,
        "copy_budget": "3 MiB",
        "deltas": 4,
        "dir": "elsewhere",
        "keep": 8,
        "max_failures": 5,
        "tensorboard": True,
        "metrics_buffer": 5000,
        "threads": 7,
    }

    other = clicks_job(**{part: {name: values[name]}})

    assert other != clicks_job()
    assert job_digest(other) == job_digest(clicks_job())


def test_every_other_key_changes_the_digest() -> None:
    others = [
        clicks_job(train={"seed": 1}),
        clicks_job(table={"hash_seed": 1}),
        clicks_job(data={"block_rows": 50}),
        clicks_job(features={"dense": []}),
        clicks_job(feature={"user": {"lookups": 1}}),
    ]

    digests = {job_digest(job) for job in [clicks_job(), *others]}

    assert len(digests) == len(others) + 1


def test_changed_data_is_refused_file_by_file(clicks) -> None:
    path = begin(clicks)
    (clicks / "train" / "0.parquet").rename(clicks / "train" / "2.parquet")
    (clicks / "valid" / "1.parquet").write_bytes((clicks / "test" / "0.parquet").read_bytes())
    (clicks / "valid" / "0.parquet").write_bytes((clicks / "train" / "1.parquet").read_bytes())

    with (
        RunDirectory(path, clicks_job(), clicks) as directory,
        pytest.raises(DataError) as caught,
    ):
        directory.resume(parts_of(clicks))

    assert "0.parquet is gone" in caught.value.what
    assert "2.parquet is new" in caught.value.what
    assert "0.parquet had " in caught.value.what
    assert "50 rows, has" in caught.value.what


def test_a_second_process_is_refused_with_the_first_ones_number(clicks) -> None:
    path = begin(clicks)
    script = (
        "import fcntl, os, sys\n"
        "lock = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "os.ftruncate(lock, 0); os.pwrite(lock, str(os.getpid()).encode(), 0)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        holder.stdout.readline()

        with (
            RunDirectory(path, clicks_job(), clicks) as directory,
            pytest.raises(TrainingError, match=f"process {holder.pid} is training there"),
        ):
            directory.resume(parts_of(clicks))
        holder.communicate("")

    with RunDirectory(path, clicks_job(), clicks) as directory:
        directory.resume(parts_of(clicks))


def test_a_beginning_that_was_cut_off_is_begun_again(clicks) -> None:
    path = begin(clicks)
    (path / "job.json").unlink()
    (path / ".job.json.0123abcd.tmp").write_text("{")

    with RunDirectory(path, clicks_job(), clicks) as directory:
        had_begun = directory.has_begun
        directory.begin(parts_of(clicks), profile_of(clicks))

    assert not had_begun
    assert Run.open(path).job == clicks_job()
    assert not list(path.glob(".*.tmp"))


def test_a_folder_with_other_things_is_left_alone(clicks) -> None:
    path = clicks / "home"
    path.mkdir()
    (path / "thesis.tex").write_text("important")

    with (
        RunDirectory(path, clicks_job(), clicks) as directory,
        pytest.raises(ConfigError, match=r"holds other things \(thesis.tex\) and no run"),
    ):
        directory.begin(parts_of(clicks), profile_of(clicks))

    assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(clicks) -> None:
    path = clicks / "file"
    path.write_text("")

    with (
        RunDirectory(path, clicks_job(), clicks) as directory,
        pytest.raises(ConfigError, match="is a file"),
    ):
        directory.begin(parts_of(clicks), profile_of(clicks))


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"is no run: it has no job.json"):
        Run.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: {**tree, "digest": "0" * 64},
        lambda tree: {**tree, "base": 5},
        lambda tree: {**tree, "job": {**tree["job"], "nonsense": 1}},
        lambda tree: {"job": tree["job"]},
        lambda _tree: [],
    ],
)
def test_a_damaged_job_is_refused_by_name(clicks, damage) -> None:
    path = begin(clicks)
    file = path / "job.json"

    file.write_text(json.dumps(damage(json.loads(file.read_text()))))

    with pytest.raises(SnapshotError, match=r"job.json.* is damaged"):
        Run.open(path)


@pytest.mark.parametrize("name", ["profile.json", "data.json"])
@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_damaged_companions_are_refused(clicks, name, text) -> None:
    path = begin(clicks)
    if text is None:
        (path / name).unlink()
    else:
        (path / name).write_text(text)

    with (
        RunDirectory(path, clicks_job(), clicks) as directory,
        pytest.raises(SnapshotError, match="damaged"),
    ):
        directory.resume(parts_of(clicks))


def test_a_run_of_a_release_that_knew_fewer_settings_goes_on(clicks) -> None:
    path = begin(clicks)
    tree = json.loads((path / "job.json").read_text())
    for part, key in (("table", "wire"), ("train", "final_learning_rate")):
        del tree["job"][part][key]
    tree["digest"] = digest_of(tree["job"])
    (path / "job.json").write_text(json.dumps(tree))

    with RunDirectory(path, clicks_job(), clicks) as directory:
        directory.resume(parts_of(clicks))

        assert directory.run.digest == tree["digest"] != job_digest(clicks_job())
    assert Run.open(path).digest == tree["digest"]
