"""A run of several ranks with its checkpoints in a bucket, exported to one, served out of it."""

import os
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from serving.client import Client
from storage.objects import ObjectStore
from storage.places import ObjectPath
from storage.snapshot import open_snapshot
from tests.e2e.test_export import JOB, scored
from tests.launch.command import ROOT, muxtable
from tests.serving.running import quiet, running
from tests.storage.s3 import objects, s3_server
from tests.storage.test_snapshot import files_of
from tests.trainer.clicks import write_clicks
from trainer.export import WEIGHT, Export
from trainer.run import Run

pytestmark = pytest.mark.timeout(180)
VERSIONS = ObjectPath("bucket", "versions")


@pytest.fixture(scope="module")
def bucket():
    with s3_server():
        yield


@pytest.fixture(scope="module")
def folder(bucket, tmp_path_factory):
    """A run of three ranks."""
    path = tmp_path_factory.mktemp("bucket")
    write_clicks(path, test=2000)
    (path / "job.toml").write_text(f'{JOB}checkpoints = "s3://bucket/runs/clicks"\n')
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "muxtable", "train", path / "job.toml"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def version(folder):
    """The best checkpoint as a version in a folder."""
    done = muxtable("export", folder / "run", "--out", folder / "versions", "--json")
    assert done.code == 0, done.err
    return folder / "versions" / done.document["version"]


def test_what_three_ranks_wrote_is_exported_as_one_table(folder, version, tmp_path):
    done = muxtable("predict", folder / "run", folder / "test", "--out", tmp_path / "scores")
    assert done.code == 0, done.err
    files = sorted((tmp_path / "scores").glob("*.parquet"))
    expected = np.concatenate([pq.read_table(file)["score"].to_numpy() for file in files])

    with open_snapshot(version) as snapshot, Export(Run.open(folder / "run")) as export:
        weight = export.read_rows(0, export.layout.rows)
        shards = export._checkpoint.entry(WEIGHT).parts
        assert snapshot.vectors(np.arange(len(weight))).tobytes() == weight.tobytes()
        assert len(shards) >= 3
        np.testing.assert_allclose(scored(folder, snapshot), expected, rtol=0, atol=1e-5)


def test_a_bucket_gets_the_bytes_that_a_folder_gets(folder, version):
    done = muxtable("export", folder / "run", "--out", VERSIONS, "--json")
    again = muxtable("export", folder / "run", "--out", VERSIONS)
    listed = muxtable("versions", VERSIONS, "--json")

    assert done.code == 0, done.err
    assert done.document["path"] == str(VERSIONS / version.name)
    assert objects(VERSIONS / version.name) == files_of(version)
    assert again.code == 2
    assert "exists already" in again.err
    assert [each["name"] for each in listed.document["versions"]] == [version.name]


def test_a_service_takes_its_versions_out_of_a_bucket(folder, version, tmp_path):
    place = ObjectPath("bucket", "followed")
    store = ObjectStore.at_hand()
    # Somebody's export that has not come to its end, and something else.
    store.put_if(place / "v-9000000000" / "00000-rows.safetensors", b"half", None)
    store.put_if(place / "notes" / "manifest.json", b"{}", None)
    newer = "v-1000000000"
    (tmp_path / "served").mkdir()
    arguments = quiet(tmp_path / "served", "--follow", place, "--poll-s", 0.1)

    with running(*arguments) as service, Client(service.address) as client:
        for name in (version.name, newer):
            done = muxtable("export", folder / "run", "--out", place, "--name", name)
            assert done.code == 0, done.err
            deadline = time.monotonic() + 20
            while client.versions().stamp.version != name:
                assert time.monotonic() < deadline, f"{name} is not in force"
                time.sleep(0.05)
        found = client.lookup({"user": [1, 2, 3]})

    assert found.version == newer
    with open_snapshot(tmp_path / "served" / version.name) as copied:
        assert copied.digest == open_snapshot(version).digest
    assert sorted(path.name for path in (tmp_path / "served").glob("v-*")) == [version.name, newer]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("export", "{run}", "--out", VERSIONS, "--to", "parquet"), "is no folder"),
        (
            ("export", "{run}", "--out", VERSIONS, "--delta-from", "v-0000000001"),
            "go with a bucket",
        ),
        (("export", "{run}", "--out", "gs://bucket/x"), "is no place to write to"),
        (("promote", VERSIONS, "v-0000000001"), "has no version in force"),
        (("rollback", VERSIONS), "has no version in force"),
        (("versions", "s3://no-such-bucket/x"), "no-such-bucket"),
        (("serve", "{run}", "--follow", "gs://bucket/x"), "is no place"),
    ],
)
def test_what_a_bucket_cannot_do_is_said(folder, command, message):
    done = muxtable(*[str(each).format(run=folder / "run") for each in command])

    assert done.code == 2, done.out
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_bucket_without_credentials_is_refused_before_anything_starts(folder, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    done = muxtable("serve", folder, "--follow", VERSIONS)

    assert done.code == 2
    assert "needs credentials" in done.err
