import pytest

from features.errors import ConfigError
from launch.cluster import submission
from launch.cluster.submission import check_paths, entrypoint, files_of, stage
from tests.trainer.clicks import clicks_job, write_clicks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    (path / "job.toml").write_text("# a job\n")
    (path / ".gitignore").write_text("train\n")
    (path / "notes.txt").write_text("not for the cluster\n")
    return path


def test_the_job_file_and_the_data_it_names_are_uploaded_and_nothing_else(folder, tmp_path):
    files = files_of(clicks_job(), folder)

    stage(folder / "job.toml", files, tmp_path)

    staged = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    data = {f"{part}/{n}.parquet" for part in ("train", "valid", "test") for n in (0, 1)}
    assert staged == {"job.toml", *data}
    assert (tmp_path / "train/0.parquet").read_bytes() == (folder / "train/0.parquet").read_bytes()


def test_data_that_the_nodes_read_themselves_stays_where_it_is(folder):
    job = clicks_job(data={"train": "/shared/train", "valid": "s3://bucket/valid", "test": None})

    assert files_of(job, folder) == []


def test_paths_outside_the_folder_are_refused(folder):
    job = clicks_job(data={"train": "../train/*.parquet"})

    with pytest.raises(ConfigError, match=r'data.train: "\.\./train.*leaves the folder'):
        files_of(job, folder)


def test_too_much_data_is_refused_with_the_largest_files(folder, monkeypatch):
    monkeypatch.setattr(submission, "LIMIT_BYTES", 1000)

    with pytest.raises(ConfigError, match=r"the largest: train/\d\.parquet"):
        files_of(clicks_job(), folder)


@pytest.mark.parametrize("place", [None, "runs/a"])
def test_a_run_that_would_be_lost_with_its_copy_is_refused(place):
    with pytest.raises(ConfigError, match=r"run\.dir .* lost with it"):
        check_paths(clicks_job(run={"dir": place}))


def test_a_run_in_a_shared_folder_is_taken():
    check_paths(clicks_job(run={"dir": "/shared/run"}))


def test_the_command_of_the_cluster_keeps_its_words_together():
    line = entrypoint("my job.toml", 3, ['run.dir="/a b"'])

    assert line == ("python -m muxtable train 'my job.toml' --workers 3 --set 'run.dir=\"/a b\"'")
