import os
import re
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from features.errors import DataError
from features.parquet import open_dataset
from features.patterns import find_files, matches

TREE = [
    "a.parquet",
    "b.parquet",
    "notes.txt",
    "_SUCCESS",
    ".hidden.parquet",
    "day=1/x.parquet",
    "day=2/x.parquet",
    "day=2/_temporary/y.parquet",
    "odd[1].parquet",
]


@pytest.fixture
def tree(tmp_path):
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("a.parquet", ["a.parquet"]),
        ("./day=1/../a.parquet", ["a.parquet"]),
        ("?.parquet", ["a.parquet", "b.parquet"]),
        ("day=*/*.parquet", ["day=1/x.parquet", "day=2/x.parquet"]),
        ("**/x.parquet", ["day=1/x.parquet", "day=2/x.parquet"]),
        ("day=2", ["day=2/x.parquet"]),
        (
            ".",
            ["a.parquet", "b.parquet", "day=1/x.parquet", "day=2/x.parquet", "odd[1].parquet"],
        ),
        ("odd[1].parquet", ["odd[1].parquet"]),
        ("*", ["a.parquet", "b.parquet", "notes.txt", "odd[1].parquet"]),
        ("_*", ["_SUCCESS"]),
        (["b.parquet", "a.parquet", "*.parquet"], ["a.parquet", "b.parquet", "odd[1].parquet"]),
    ],
)
def test_a_pattern_matches_files_sorted_and_once(tree, patterns, found):
    entries = find_files(patterns, tree)

    assert [entry.path for entry in entries] == found


def test_an_absolute_path_is_kept_and_names_the_same_file(tree):
    entries = find_files(["a.parquet", str(tree / "a.parquet"), f"file://{tree}/b.parquet"], tree)

    assert [entry.path for entry in entries] == [f"{tree}/b.parquet", "a.parquet"]


def test_a_path_above_the_job_file_stays_relative(tree):
    (entry,) = find_files("../b.parquet", tree / "day=1")

    assert entry.path == "../b.parquet"
    assert entry.size == 1


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("day=3/*.parquet", "holds a.parquet, b.parquet, day=1"),
        ("nope.parquet", "paths are relative to the job file"),
        ("day=1/y*", "day=1 holds x.parquet"),
        ("day=2/_temporary", "y.parquet"),
        ("", "is no path"),
        ("a\0b", "is no path"),
        ([], "no input file is given"),
    ],
)
def test_a_pattern_without_files_is_refused_with_what_is_there(tree, pattern, said):
    if pattern == "day=2/_temporary":
        (tree / "day=2/_temporary/y.parquet").rename(tree / "day=2/_temporary/y.txt")
        said = 'no *.parquet file in the folder "day=2/_temporary"'

    with pytest.raises(DataError) as caught:
        find_files(pattern, tree)

    assert said in str(caught.value)


def test_what_is_no_regular_file_is_refused(tree):
    os.mkfifo(tree / "pipe.parquet")

    with pytest.raises(DataError, match=r'"pipe\.parquet" is not a regular file'):
        find_files("pipe.parquet", tree)


def test_a_link_to_nothing_is_refused(tree):
    (tree / "gone.parquet").symlink_to(tree / "nothing")

    with pytest.raises(DataError, match=r'the file "gone\.parquet" cannot be read'):
        find_files("gone.parquet", tree)


@pytest.mark.parametrize(
    ("path", "pattern", "is_match"),
    [
        ("a/b/c.parquet", "a/*/c.parquet", True),
        ("a/b/c.parquet", "a/c.parquet", False),
        ("a/b/c.parquet", "**/*.parquet", True),
        ("c.parquet", "**/*.parquet", True),
        ("a/b/c.parquet", "a/**", True),
        ("a/b", "a/b/c", False),
        ("a/[b]", "a/[[]b]", True),
    ],
)
def test_globs_behind_a_uri_match_as_on_disk(path, pattern, is_match):
    assert matches(path.split("/"), pattern.split("/")) is is_match


@pytest.fixture(scope="module")
def store():
    """A server that speaks S3, with a bucket of two files; yields its address."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    # Its log is read to the end, so that the pipe never fills.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        address = None
        for line in server.stderr:
            if found := re.search(r"Running on http://([\d.]+:\d+)", line):
                address = found[1]
                break
        drain = threading.Thread(target=server.stderr.read)
        drain.start()
        try:
            assert address, "the server did not start"
            yield address
        finally:
            server.terminate()
            drain.join()


def filesystem_at(address):
    return pyarrow.fs.S3FileSystem(
        endpoint_override=address, scheme="http", allow_bucket_creation=True
    )


@pytest.fixture
def bucket(store, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{store}",
    }.items():
        monkeypatch.setenv(name, value)
    filesystem = filesystem_at(store)
    filesystem.create_dir("logs")
    for number, name in enumerate(["a.parquet", "day=1/b.parquet", "_SUCCESS"]):
        with filesystem.open_output_stream(f"logs/clicks/{name}") as out:
            pq.write_table(pa.table({"x": [number, number + 1]}), out)
    return store


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("s3://logs/clicks", ["s3://logs/clicks/a.parquet", "s3://logs/clicks/day=1/b.parquet"]),
        ("s3://logs/clicks/a.parquet", ["s3://logs/clicks/a.parquet"]),
        ("s3://logs/clicks/*.parquet", ["s3://logs/clicks/a.parquet"]),
        ("s3://logs/*/day=[12]/*", ["s3://logs/clicks/day=1/b.parquet"]),
        (
            "s3://logs/**/*.parquet",
            ["s3://logs/clicks/a.parquet", "s3://logs/clicks/day=1/b.parquet"],
        ),
        (
            "s3://key:secret@logs/clicks/?.parquet?scheme=http&endpoint_override=HERE",
            ["s3://logs/clicks/a.parquet"],
        ),
    ],
)
def test_files_behind_s3_are_found_and_read(bucket, tmp_path, pattern, found):
    dataset = open_dataset(pattern.replace("HERE", bucket), tmp_path)

    first = dataset.read_row_group(0, 0, ["x"])

    assert [file.path for file in dataset.files] == found
    assert first.column("x").to_pylist() in ([0, 1], [1, 2])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("s3://logs/nothing/*.parquet", 'no file matches "s3://logs/nothing/*.parquet"'),
        ("s3://other/a.parquet", 'no file matches "s3://other/a.parquet"'),
        ("nosuch://logs/a.parquet", '"nosuch://logs/a.parquet" cannot be listed'),
        ("s3://key:verysecret@logs/nothing*", 'no file matches "s3://logs/nothing*"'),
    ],
)
def test_an_address_without_files_is_refused_without_its_credentials(
    bucket, tmp_path, pattern, said
):
    with pytest.raises(DataError) as caught:
        open_dataset(pattern, tmp_path)

    assert said in str(caught.value)
    assert "verysecret" not in str(caught.value)


def test_a_damaged_file_behind_s3_is_named(bucket, tmp_path):
    filesystem = filesystem_at(bucket)
    with filesystem.open_output_stream("logs/bad/cut.parquet") as out:
        out.write(b"PAR1 and nothing more")

    with pytest.raises(DataError, match=r"s3://logs/bad/cut\.parquet: the file is cut short"):
        open_dataset("s3://logs/bad/*", tmp_path)
