"""Exports that die, disks that fail, manifests that lie."""

import errno
import json
import random
from pathlib import Path

import numpy as np
import pytest

from features.errors import MuxtableError, SnapshotError
from storage import canonical
from storage.codecs import codec_named
from storage.drafts import sweep
from storage.manifest import decode_manifest, encode_manifest
from storage.snapshot import open_snapshot
from storage.snapshot_apply import apply_delta, write_delta
from storage.versions import version_name
from tests.storage.faults import Crash, CrashingDisk, FailingDisk, FullDisk, WatchedDisk
from tests.storage.snapshots import every_kind, source_of, table_of, write
from tests.storage.test_snapshot import names_in

VERSION = "v-0000000012"
TABLE = table_of(every_kind())


def num_calls(tmp_path: Path) -> int:
    disk = WatchedDisk()
    write(tmp_path / "counted", TABLE, disk=disk, part_bytes=4096)
    return len(disk.calls)


def test_a_death_at_any_call_leaves_a_whole_version_or_none(tmp_path):
    calls = num_calls(tmp_path)
    versions = 0
    for at in range(calls):
        directory = tmp_path / str(at)
        disk = CrashingDisk(at)

        with pytest.raises(Crash):
            write(directory, TABLE, disk=disk, part_bytes=4096)
        disk.die()

        if directory.exists():
            sweep(directory, lease_s=0)
            assert names_in(directory) in ([], [VERSION])
            if names_in(directory):
                versions += 1
                with open_snapshot(directory / VERSION) as snapshot:
                    np.testing.assert_array_equal(snapshot.rows.view("<f4"), TABLE)
            else:
                write(directory, TABLE)
    assert 0 < versions < calls


@pytest.mark.parametrize("operation", ["write", "create", "sync", "rename_new"])
def test_a_disk_that_fails_leaves_nothing(tmp_path, operation):
    for at in range(3 if operation != "rename_new" else 1):
        with pytest.raises(SnapshotError):
            write(tmp_path, TABLE, disk=FailingDisk(operation, at, errno.EIO), part_bytes=4096)

        assert names_in(tmp_path) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(SnapshotError, match="space"):
        write(tmp_path, TABLE, disk=FullDisk())

    assert names_in(tmp_path) == []


STRANGE = (None, True, -1, 0, 1, 2**31, 2**63, 2**64, 1e300, "", "x", "0" * 64, [], [1], {}, "a\0b")


def mutated(tree, rng: random.Random):
    """Changes one place of a JSON tree: another value, one fewer, one twice."""
    places = []

    def visit(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(tree)
    node, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.15:
        del node[key]
    elif kind < 0.3 and isinstance(node, dict):
        node["strange"] = rng.choice(STRANGE)
    elif kind < 0.4 and type(node[key]) in (int, float):
        node[key] += rng.choice((-1, 1, 0.5, 2**40))
    else:
        node[key] = rng.choice(STRANGE)
    return tree


def forge(path: Path, original: bytes, rng: random.Random) -> None:
    manifest = decode_manifest(original, "m")
    content = mutated(json.loads(canonical.encode(manifest.content)), rng)
    try:
        data = encode_manifest(manifest.model_copy(update={"content": content}), "m")
    except MuxtableError:
        return
    (path / "manifest.json").write_bytes(data)


@pytest.mark.parametrize(
    ("codec", "count"),
    [
        ("float32", 150),
        ("prefix:1+int8", 150),
        ("pq:2x8", 150),
        ("pca:2+int8", 150),
        pytest.param("opq:2x8", 20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_manifest_that_lies_with_right_checksums_is_read_or_refused(tmp_path, codec, count):
    rng = random.Random(f"{codec} 1")
    path = write(tmp_path, TABLE, codec=codec_named(codec)(4, TABLE)).path
    original = (path / "manifest.json").read_bytes()
    (path / "manifest.json").chmod(0o644)
    refused = 0
    for _ in range(count):
        forge(path, original, rng)

        try:
            with open_snapshot(path, verify="lazy") as snapshot:
                assert snapshot.rows.shape[1] == snapshot.codec.row_bytes
        except MuxtableError:
            refused += 1

    assert refused > 0.9 * count


def test_a_delta_that_lies_with_right_checksums_is_refused_or_proved(tmp_path):
    rng = random.Random(2)
    codec = codec_named("int8")(4)
    base = write(tmp_path, TABLE, name=version_name(1), codec=codec)
    after = TABLE.copy()
    after[::7] += 1
    with open_snapshot(base.path) as parent:
        made = write_delta(tmp_path, version_name(2), source_of(after, codec=codec), parent)
    original = (made.path / "manifest.json").read_bytes()
    (made.path / "manifest.json").chmod(0o644)
    for turn in range(100):
        forge(made.path, original, rng)

        try:
            applied = apply_delta(made.path, tmp_path / f"out{turn}")
        except MuxtableError:
            continue
        assert applied.digest == made.digest
