import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.batches import KeyBatch, KeyColumn
from features.errors import CodecError, SnapshotError
from native import kernels
from storage import canonical
from storage.codecs.plain import Float32Codec
from storage.manifest import decode_manifest, encode_manifest
from storage.snapshot import open_snapshot
from storage.snapshot_record import SNAPSHOT
from storage.snapshot_writer import write_snapshot
from storage.versions import version_name, version_names
from tests.golden.snapshot_v1 import make_snapshot
from tests.launch.command import ROOT
from tests.storage.snapshots import (
    LINEAGE,
    every_kind,
    some_keys,
    source_of,
    table_of,
    write,
)

VERSION = "v-0000000012"
GOLDEN = Path(make_snapshot.__file__).parent / "versions" / VERSION
GOLDEN_DIGEST = "98c000e11f60ac539a4d89feda733499eeddd2e6898bac08842e409274ca1168"


def files_of(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


def names_in(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def rewrite_manifest(path: Path, change) -> None:
    """Changes the manifest as somebody would who recomputes its checksums."""
    file = path / "manifest.json"
    manifest = decode_manifest(file.read_bytes(), "m")
    content = json.loads(canonical.encode(manifest.content))
    change(content[SNAPSHOT])
    data = encode_manifest(manifest.model_copy(update={"content": content}), "m")
    file.chmod(0o644)
    file.write_bytes(data)


def test_what_was_exported_is_looked_up_as_training_would(tmp_path):
    layout = every_kind()
    table = table_of(layout)
    columns = some_keys(layout)
    batch = layout.route(KeyBatch(50, columns, None, None, np.empty((50, 0), np.float32)))
    expected = np.empty((50, layout.out_width), np.float32)
    kernels.gather(table, batch.rows, batch.columns, expected)
    for bag in batch.bags:
        kernels.gather_bags(table, bag.rows, bag.offsets, bag.mean, bag.column, expected)

    write(tmp_path, table)

    with open_snapshot(tmp_path / VERSION) as snapshot:
        np.testing.assert_array_equal(snapshot.embed(columns), expected)
        assert snapshot.record.lineage == LINEAGE
        assert snapshot.record.error.relative == 0
        assert snapshot.rows.shape == (layout.rows, 16)
        assert not snapshot.rows.flags.writeable


def test_parts_join_into_one_array_whatever_their_number(tmp_path):
    table = table_of(every_kind())

    write(tmp_path, table, part_bytes=4096)

    with open_snapshot(tmp_path / VERSION) as snapshot:
        assert len(snapshot.bundle.entry("rows").parts) == 4
        np.testing.assert_array_equal(snapshot.rows.view("<f4"), table)


def test_the_same_checkpoint_gives_the_same_bytes_in_another_process_and_elsewhere(tmp_path):
    write(tmp_path / "a", table_of(every_kind()))
    code = (
        "from pathlib import Path; import sys\n"
        "from tests.storage.snapshots import *\n"
        "write(Path(sys.argv[1]), table_of(every_kind()))"
    )

    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "b"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"},
        check=True,
    )

    assert files_of(tmp_path / "a" / VERSION) == files_of(tmp_path / "b" / VERSION)


def test_an_existing_version_is_never_overwritten(tmp_path):
    table = table_of(every_kind())
    first = write(tmp_path, table)

    with pytest.raises(SnapshotError, match="exists already"):
        write(tmp_path, table + 1)

    assert open_snapshot(tmp_path / VERSION).digest == first.digest
    assert names_in(tmp_path) == [VERSION]


def _race(parent: Path, barrier, results) -> None:
    table = table_of(every_kind())
    barrier.wait()
    try:
        write(parent, table)
        results.put("ok")
    except SnapshotError as exc:
        results.put("exists" if "exists already" in exc.what else exc.what)


def test_of_many_writers_of_one_version_one_wins(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    writers = [context.Process(target=_race, args=(tmp_path, barrier, results)) for _ in range(4)]
    for each in writers:
        each.start()

    said = sorted(results.get(timeout=50) for _ in writers)

    for each in writers:
        each.join()
    assert said == ["exists"] * 3 + ["ok"]
    assert names_in(tmp_path) == [VERSION]


def test_rows_that_are_not_finite_are_named_and_leave_nothing_behind(tmp_path):
    table = table_of(every_kind())
    table[600, 2] = np.nan

    with pytest.raises(CodecError, match="row"):
        write(tmp_path, table)

    assert names_in(tmp_path) == []


def test_a_dead_writers_draft_is_swept_and_a_living_ones_is_not(tmp_path):
    dead, living = (tmp_path / f".{VERSION}.export-x.{n}.tmp" for n in ("0000000a", "0000000b"))
    code = (
        "import sys, time; from pathlib import Path; from storage.drafts import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    for draft in (dead, living):
        draft.mkdir()
        (draft / "rows-00000.safetensors").write_bytes(b"half")
    old = time.time() - 3600
    with subprocess.Popen(
        [sys.executable, "-c", code, living],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as writer:
        writer.stdout.readline()
        for draft in (dead, living):
            os.utime(draft, (old, old))

        write(tmp_path, table_of(every_kind()))

        assert names_in(tmp_path) == [living.name, VERSION]
        writer.kill()
    write(tmp_path, table_of(every_kind()), name=version_name(13))
    assert names_in(tmp_path) == [VERSION, version_name(13)]
    assert version_names(tmp_path) == [VERSION, version_name(13)]


def test_a_version_that_does_not_fit_is_refused_before_it_is_written(tmp_path):
    layout = every_kind()
    huge = replace(source_of(table_of(layout), layout), files={})
    size = shutil.disk_usage(tmp_path).free + 2**30

    class Endless(Float32Codec):
        @property
        def row_bytes(self) -> int:
            return size // layout.rows

    with pytest.raises(SnapshotError, match="MB free"):
        write_snapshot(tmp_path, VERSION, replace(huge, codec=Endless(width=layout.width)))

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", "latest", "v-1", "v-0000000012/..", "v-0000000012.delta"])
def test_other_names_are_no_versions(tmp_path, name):
    with pytest.raises(SnapshotError, match="name of a version"):
        write(tmp_path, table_of(every_kind()), name=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format=2), "format 2"),
        (lambda record: record["codec"].update(name="int9"), "codec"),
        (lambda record: record["layout"].update(hash="mux2"), "layout"),
        (lambda record: record["layout"].update(hash_seed=8), "layout"),
        (lambda record: record.update(hash_seed=8), "other sizes"),
        (lambda record: record.update(rows=1), "other sizes"),
        (lambda record: record.update(lineage=None), "lineage"),
        (lambda record: record.update(extra=1), "extra"),
        (lambda record: record["probes"][0].update(sha256="0" * 64), "other vectors"),
        (lambda record: record["probes"][0]["keys"].__setitem__(0, "0" * 15 + "9"), "another key"),
        (lambda record: record["probes"][0].update(feature="nobody"), "no feature"),
        (lambda record: record["probes"][0]["keys"].__setitem__(0, "x" * 16), "probe"),
        (lambda record: record["probes"][0].update(keys=[]), "probe"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path, change, message):
    write(tmp_path, table_of(every_kind()))
    rewrite_manifest(tmp_path / VERSION, change)

    with pytest.raises((SnapshotError, CodecError), match=message):
        open_snapshot(tmp_path / VERSION)


def test_a_flipped_bit_in_a_row_is_refused_with_the_files_name(tmp_path):
    write(tmp_path, table_of(every_kind()))
    file = tmp_path / VERSION / "rows-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[5000] ^= 4
    file.chmod(0o644)
    file.write_bytes(data)

    with pytest.raises(SnapshotError, match=r"rows-00000\.safetensors"):
        open_snapshot(tmp_path / VERSION)


def test_the_golden_snapshot_is_written_with_the_same_bytes(tmp_path):
    digest = make_snapshot.write(tmp_path / "versions")

    assert digest == GOLDEN_DIGEST
    assert files_of(tmp_path / "versions" / VERSION) == files_of(GOLDEN)


def test_the_golden_snapshot_is_read():
    with open_snapshot(GOLDEN, expected_digest=GOLDEN_DIGEST) as snapshot:
        assert snapshot.name == VERSION
        assert snapshot.codec.text == "int8"
        assert snapshot.record.tower.dense == ("price",)
        assert snapshot.file("tower.onnx") == b"no graph, but bytes"
        user = snapshot.lookup("user", KeyColumn(np.array([7, 0], np.uint64)))
        assert user.shape == (2, 8)
        # Its table is (37 n mod 101 - 50) / 64, n counted over rows and columns.
        rows = snapshot.layout.rows_of("user", KeyColumn(np.array([7], np.uint64)))[:, 0]
        numbers = rows[:, None] * 4 + np.arange(4)
        expected = ((numbers * 37) % 101 - 50) / 64
        np.testing.assert_allclose(user[0], expected.reshape(-1), atol=100 / 64 / 510 + 1e-6)
