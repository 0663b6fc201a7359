import fcntl
import os
from pathlib import Path

import pytest

from features.errors import ConfigError, SnapshotError
from launch.sweep.grid import Axes, make_points
from launch.sweep.record import SCHEMA, read_records, to_bytes
from launch.sweep.store import Store, point_key
from tests.launch.sweeps import record

TREE = {
    "data": {"train": "a", "test": "b", "label": "click"},
    "features": {"categorical": ["user"]},
    "table": {"rows": 300},
}
DATA = {"train": "1", "test": "2"}


def key(tree=TREE, data=DATA, codecs=("int8",), version="1", seed=0) -> str:
    (point,) = make_points(tree, "job.toml", Axes(seeds=(seed,), more={}))
    return point_key(point, data, codecs, version)


def test_records_come_back_as_they_were(tmp_path):
    records = [
        record(0.8, more=(("table.optimizer", '"adam"'),)),
        record(None, multiplexed=None, budget=None),
    ]
    path = tmp_path / "a.parquet"

    path.write_bytes(to_bytes(records))

    assert read_records(path) == records
    assert SCHEMA.field("auc_test").type == "double"


def test_a_damaged_point_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(to_bytes([record()])[:-9])

    with pytest.raises(SnapshotError, match=r"a\.parquet.* is no point of a sweep"):
        read_records(path)


def test_whatever_decides_a_point_is_in_its_key():
    changed = {**TREE, "table": {"rows": 301}}

    keys = {
        key(),
        key(changed),
        key(data={**DATA, "test": "3"}),
        key(codecs=()),
        key(version="2"),
        key(seed=1),
    }

    assert len(keys) == 6


def test_what_does_not_decide_it_is_not():
    tree = {**TREE, "run": {"checkpoint_every": 3, "dir": "x"}, "data": {**TREE["data"]}}

    assert key(tree) == key()


def test_a_point_is_finished_once_it_is_stored_and_did_not_fail(tmp_path):
    with Store(tmp_path / "out") as store:
        run = store.run_folder("k1")
        (run / "checkpoints").mkdir(parents=True)

        store.add("k1", [record()])
        store.add("k2", [record(None)])
        store.add("k3", [record(None, status="lost")])

        assert store.finished("k1") == [record()]
        assert store.finished("k2") == [record(None)]
        assert store.finished("k3") is None
        assert store.finished("k4") is None
        assert store.stored("k3")[0].status == "lost"
        assert not run.exists()


def test_what_a_kill_left_behind_is_cleared_away(tmp_path):
    out = tmp_path / "out"
    with Store(out) as store:
        store.add("k1", [record()])
    for name in ("k1", "k2"):
        (out / "unfinished" / name).mkdir()
        (out / "unfinished" / name / "lock").touch()
    (out / "points" / ".k9.parquet.12ab.tmp").write_bytes(b"half")

    with Store(out):
        left = sorted(path.name for path in out.rglob("*") if path.is_file())

    # The run of k2 goes on.
    assert left == ["k1.parquet", "lock", "lock"]
    assert (out / "unfinished" / "k2").exists()


def test_one_process_sweeps_in_a_folder_at_a_time(tmp_path):
    with Store(tmp_path / "out"):
        descriptor = os.open(tmp_path / "out" / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        with pytest.raises(SnapshotError, match="another process"), Store(tmp_path / "out"):
            pass


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()

    with pytest.raises(ConfigError, match=r"holds other things \(notes.txt\) and no sweep"):
        Store(tmp_path).__enter__()
    with pytest.raises(ConfigError, match="is a file"):
        Store(Path(tmp_path / "notes.txt")).__enter__()
