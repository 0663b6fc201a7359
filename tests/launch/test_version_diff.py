import json
import subprocess
import sys

import numpy as np
import pytest

from launch.version_diff import compare, made_up_ids
from storage.codecs import codec_named
from storage.snapshot import open_snapshot
from storage.snapshot_apply import write_delta
from storage.versions import version_name
from tests.launch.command import ROOT
from tests.storage.snapshots import every_kind, source_of, table_of, write

TABLE = table_of(every_kind())


def differences(tmp_path, after: np.ndarray, **options) -> dict:
    paths = [
        write(tmp_path, TABLE, name=version_name(1)).path,
        write(tmp_path, after, name=version_name(2), **options).path,
    ]
    with open_snapshot(paths[0]) as old, open_snapshot(paths[1]) as new:
        return {each.feature: each for each in compare(old, new, made_up_ids(old, 300), 5)}


def test_longer_vectors_point_where_they_did(tmp_path):
    found = differences(tmp_path, TABLE * 2)

    for each in found.values():
        assert each.cosine == pytest.approx(1)
        assert each.norm_ratio == pytest.approx(2)
        assert each.changed == 1
        assert each.nearest_kept in (None, 1)
    assert found["user"].values == 300
    assert found["age"].values == 4
    assert found["day"].values == 3


def test_turned_vectors_point_the_other_way_and_keep_their_neighbours(tmp_path):
    each = differences(tmp_path, -TABLE)["user"]

    assert each.cosine == pytest.approx(-1)
    assert each.cosine_low == pytest.approx(-1)
    assert each.nearest_kept == 1


def test_another_table_has_nothing_in_common(tmp_path):
    each = differences(tmp_path, table_of(every_kind(), seed=5))["user"]

    assert abs(each.cosine) < 0.1
    assert each.nearest_kept < 0.1


def test_a_smaller_codec_turns_vectors_a_little(tmp_path):
    each = differences(tmp_path, TABLE, codec=codec_named("int4")(4))["user"]

    assert 0.99 < each.cosine < 1
    assert each.changed > 0.9


def light(*arguments: object) -> subprocess.CompletedProcess:
    """Runs a command where torch cannot be imported."""
    script = (
        "import sys\nsys.modules['torch'] = None\nimport launch.cli\n"
        "sys.exit(launch.cli.run(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_versions_are_looked_at_and_made_without_torch(tmp_path):
    after = TABLE.copy()
    after[5] += 1
    base = write(tmp_path, TABLE, name=version_name(1))
    with open_snapshot(base.path) as parent:
        delta = write_delta(tmp_path, version_name(2), source_of(after), parent)

    inspected = light("inspect", delta.path, "--verify")
    applied = light("apply", delta.path)
    different = light("diff", base.path, tmp_path / version_name(2))

    assert json.loads(inspected.stdout)["proved"] == delta.digest, inspected.stderr
    assert json.loads(applied.stdout)["digest"] == delta.digest, applied.stderr
    assert different.returncode == 0, different.stderr
    assert len(json.loads(different.stdout)["features"]) == 7
