import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import SnapshotError
from features.layout_json import from_json, to_json
from storage import canonical
from storage.codecs import codec_named
from storage.manifest import decode_manifest, encode_manifest
from storage.snapshot import DELTA, open_snapshot
from storage.snapshot_apply import WrittenDelta, apply_delta, prove_delta, write_delta
from storage.snapshot_writer import write_snapshot
from storage.versions import version_name
from tests.storage.snapshots import LINEAGE, every_kind, source_of, table_of, write
from tests.storage.test_snapshot import files_of, names_in

BASE = version_name(1)


def changed(table: np.ndarray, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(table), count, replace=False)
    after = table.copy()
    after[rows] += rng.normal(0, 0.05, (count, table.shape[1])).astype(np.float32)
    return after


def delta(directory: Path, table: np.ndarray, step: int, codec=None, **options) -> WrittenDelta:
    lineage = LINEAGE.model_copy(update={"step": step})
    with open_snapshot(directory / version_name(step - 1)) as parent:
        source = source_of(table, codec=codec or parent.codec, lineage=lineage, **options)
        return write_delta(directory, version_name(step), source, parent)


def in_full(directory: Path, table: np.ndarray, step: int, codec, **options) -> Path:
    lineage = LINEAGE.model_copy(update={"step": step})
    source = source_of(table, codec=codec, lineage=lineage, **options)
    return write_snapshot(directory, version_name(step), source).path


@pytest.mark.parametrize("codec", ["float32", "int8", "pq:2x8", "pca:2+int8", "prefix:1+int4"])
def test_base_and_delta_give_the_very_bytes_of_an_export_in_full(tmp_path, codec):
    table = table_of(every_kind())
    after = changed(table, 40, seed=1)
    chosen = codec_named(codec)(4, table)
    files = {"tower.onnx": b"another graph"}
    write(tmp_path, table, name=BASE, codec=chosen, files={"tower.onnx": b"graph"})
    full = in_full(tmp_path / "full", after, 2, chosen, files=files)

    written = delta(tmp_path, after, 2, files=files)
    proved = prove_delta(written.path)
    applied = apply_delta(written.path)

    assert files_of(applied.path) == files_of(full)
    assert written.digest == proved == applied.digest
    assert 0 < written.changed <= 40
    assert written.rows == len(table)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(counts=st.lists(st.integers(0, 1007), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_chain_of_any_deltas_gives_the_last_version(tmp_path_factory, counts, seed):
    directory, whole = tmp_path_factory.mktemp("deltas"), tmp_path_factory.mktemp("whole")
    codec = codec_named("int8")(4)
    table = table_of(every_kind())
    write(directory, table, name=BASE, codec=codec)
    write(whole, table, name=BASE, codec=codec)
    for step, count in enumerate(counts, start=2):
        table = changed(table, count, seed=seed + step)
        in_full(whole, table, step, codec)
        made = delta(whole, table, step)
        shutil.move(made.path, directory)
    last = version_name(len(counts) + 1)

    applied = apply_delta(directory / f"{last}.delta")

    assert files_of(applied.path) == files_of(whole / last)


def test_nothing_changed_is_a_delta_of_no_rows(tmp_path):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE)

    written = delta(tmp_path, table, 2)

    assert written.changed == 0
    assert apply_delta(written.path).digest == written.digest


def test_a_delta_costs_the_rows_that_changed_and_little_more(tmp_path):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE)

    written = delta(tmp_path, changed(table, 100, seed=2), 2)

    assert written.size_bytes <= 1.15 * 100 * (16 + 4) + 64 * 1024


def test_another_codebook_is_refused(tmp_path):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE, codec=codec_named("pq:2x8")(4, table))
    other = codec_named("pq:2x8")(4, table_of(every_kind(), seed=9))

    with pytest.raises(SnapshotError, match="cannot stand on it"):
        delta(tmp_path, table, 2, codec=other)

    assert names_in(tmp_path) == [BASE]


def test_another_layout_is_refused(tmp_path):
    layout = every_kind()
    table = table_of(layout)
    write(tmp_path, table, name=BASE)
    other = from_json({**to_json(layout)}, {"vocabulary.1": np.array([3, 17, 18], np.uint64)})
    source = replace(source_of(table), layout=other)

    with open_snapshot(tmp_path / BASE) as parent, pytest.raises(SnapshotError, match="other feat"):
        write_delta(tmp_path, version_name(2), source, parent)


def test_a_delta_without_its_parent_is_refused(tmp_path):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE)
    written = delta(tmp_path, table + 1, 2)
    (tmp_path / BASE).rename(tmp_path / "elsewhere")

    with pytest.raises(SnapshotError, match=f"{BASE}.*not beside it"):
        apply_delta(written.path)


def test_a_delta_on_another_parent_of_that_name_is_refused(tmp_path):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE)
    written = delta(tmp_path, table + 1, 2)
    (tmp_path / BASE).rename(tmp_path / "elsewhere")
    write(tmp_path, table + 2, name=BASE)

    with pytest.raises(SnapshotError, match="not the manifest that was committed"):
        apply_delta(written.path)


def test_deltas_out_of_order_are_refused(tmp_path):
    table = table_of(every_kind())
    tables = [changed(table, 30, seed=seed) for seed in (1, 2, 3)]
    write(tmp_path, table, name=BASE)
    for step, after in enumerate(tables, start=2):
        apply_delta(delta(tmp_path, after, step).path)
    third = tmp_path / f"{version_name(4)}.delta"
    for name in (version_name(2), version_name(3), version_name(4)):
        shutil.rmtree(tmp_path / name)
    shutil.rmtree(tmp_path / f"{version_name(3)}.delta")
    (tmp_path / f"{version_name(2)}.delta").rename(tmp_path / f"{version_name(3)}.delta")

    with pytest.raises(SnapshotError, match="stands on another"):
        apply_delta(third)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda link: link.update(digest="0" * 64), "do not give the version"),
        (lambda link: link.update(changed=7), "soundly"),
        (lambda link: link.update(rows=5), "soundly"),
        (lambda link: link.update(parent="../../etc"), "soundly"),
        (lambda link: link.update(parent=version_name(2)), "soundly"),
        (lambda link: link.update(parent_digest="1" * 64), "soundly"),
        (lambda link: link.pop("parent"), "link is damaged"),
    ],
)
def test_a_delta_that_says_something_else_is_refused(tmp_path, change, message):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE)
    written = delta(tmp_path, changed(table, 9, seed=1), 2)
    file = written.path / "manifest.json"
    manifest = decode_manifest(file.read_bytes(), "m")
    content = canonical.decode(canonical.encode(manifest.content), "c")
    change(content[DELTA])
    file.chmod(0o644)
    file.write_bytes(encode_manifest(manifest.model_copy(update={"content": content}), "m"))

    with pytest.raises(SnapshotError, match=message):
        apply_delta(written.path)

    assert version_name(2) not in names_in(tmp_path)


def test_a_delta_is_no_version_to_serve(tmp_path):
    table = table_of(every_kind())
    write(tmp_path, table, name=BASE)
    written = delta(tmp_path, changed(table, 9, seed=1), 2)

    with pytest.raises(SnapshotError, match="muxtable apply"):
        open_snapshot(written.path)
