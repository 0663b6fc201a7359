"""Deltas: a bundle with the rows that changed, and the whole one it stands on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError
from storage.bundle import BundleWriter, open_bundle
from storage.chain import ROWS, open_checkpoint
from tests.golden.delta_v1 import make_delta

RNG = np.random.default_rng(0)
TABLE = RNG.random((5000, 7), dtype=np.float32)
CHANGED = np.sort(RNG.choice(5000, 900, replace=False))
NEW = RNG.random((900, 7), dtype=np.float32)


def expected() -> np.ndarray:
    table = TABLE.copy()
    table[CHANGED] = NEW
    return table


def write_base(parent: Path, table: np.ndarray = TABLE) -> str:
    with BundleWriter(parent, "base", "checkpoint", "a", part_bytes=2**15) as writer:
        writer.add_tensor("weight", table)
        writer.add_tensor("bias", np.zeros(3, np.float32))
        return writer.commit({})


def write_delta(parent: Path, on: str, rows=CHANGED, values=NEW, **link: object) -> Path:
    """Writes a delta on the bundle of that digest."""
    with BundleWriter(parent, "delta", "checkpoint", "a", on, part_bytes=2**13) as writer:
        writer.add_tensor(ROWS, rows)
        writer.add_tensor("weight", values)
        writer.add_tensor("bias", np.ones(3, np.float32))
        own = {"base": "base", "digest": on, "number": 1, "tensors": ["weight"]}
        writer.commit({"delta": own | link})
    return parent / "delta"


@pytest.mark.parametrize("verify", [True, "lazy", False])
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_a_delta_reads_as_the_whole_it_stands_for(tmp_path, verify, dtype):
    path = write_delta(tmp_path, write_base(tmp_path), CHANGED.astype(dtype))

    with open_checkpoint(path, verify) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensor("weight"), expected())
        np.testing.assert_array_equal(checkpoint.tensor("bias"), np.ones(3))
        assert checkpoint.tensor_names == ("bias", "weight")
        assert checkpoint.entry("weight").shape == (5000, 7)
        for first, end in [(0, 0), (0, 1), (17, 18), (4999, 5000), (1234, 4321), (5000, 5000)]:
            rows = checkpoint.read_rows("weight", first, end)
            np.testing.assert_array_equal(rows, expected()[first:end])
            inside = CHANGED[(first <= CHANGED) & (end > CHANGED)]
            assert checkpoint.changed_rows(first, end).tolist() == inside.tolist()


def test_rows_are_read_into_strided_memory(tmp_path):
    path = write_delta(tmp_path, write_base(tmp_path))
    memory = np.zeros((100, 16), np.float32)

    with open_checkpoint(path) as checkpoint:
        checkpoint.read_rows("weight", 50, 150, memory[:, :7])

    np.testing.assert_array_equal(memory[:, :7], expected()[50:150])
    assert not memory[:, 7:].any()


def test_a_delta_of_no_rows_is_its_base(tmp_path):
    none = np.empty(0, np.int64), np.empty((0, 7), np.float32)
    path = write_delta(tmp_path, write_base(tmp_path), *none)

    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensor("weight"), TABLE)


def test_a_delta_without_its_base_or_on_another_is_refused_naming_both(tmp_path):
    path = write_delta(tmp_path, write_base(tmp_path))
    shutil.rmtree(tmp_path / "base")

    with pytest.raises(SnapshotError, match=r"delta.*only what changed since .base.: .*base"):
        open_checkpoint(path)

    write_base(tmp_path, TABLE + 1)
    with pytest.raises(SnapshotError, match=r"base/manifest.json.*not the manifest that was"):
        open_checkpoint(path)


def test_a_delta_on_a_delta_is_refused(tmp_path):
    base = write_delta(tmp_path, write_base(tmp_path))
    base.rename(tmp_path / "second")
    digest = open_bundle(tmp_path / "second").digest

    link = {"base": "second"}
    path = write_delta(tmp_path, digest, **link)

    with pytest.raises(SnapshotError, match="the base is no whole checkpoint"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "rows",
    [
        CHANGED[::-1].copy(),
        np.where(np.arange(900) == 450, CHANGED[449], CHANGED),
        np.where(np.arange(900) == 899, 5000, CHANGED),
        np.where(np.arange(900) == 0, -1, CHANGED),
    ],
    ids=["reversed", "twice", "behind the end", "before the start"],
)
def test_rows_out_of_order_are_refused(tmp_path, rows):
    path = write_delta(tmp_path, write_base(tmp_path), rows)

    with pytest.raises(SnapshotError, match="delta"), open_checkpoint(path) as checkpoint:
        checkpoint.tensor("weight")


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (CHANGED.astype(np.int16), NEW),
        (CHANGED[:, None], NEW),
        (CHANGED, NEW[:-1]),
        (CHANGED, NEW[:, :-1]),
        (CHANGED, NEW.astype(np.float64)),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_refused(tmp_path, rows, values):
    path = write_delta(tmp_path, write_base(tmp_path), rows, values)

    with pytest.raises(SnapshotError, match="delta"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "link",
    [
        {"base": "base/../base"},
        {"base": "delta"},
        {"base": 3},
        {"digest": 7},
        {"number": 0},
        {"number": True},
        {"tensors": "weight"},
        {"tensors": ["nothing"]},
        {"more": 1},
    ],
)
def test_a_link_that_is_none_is_refused(tmp_path, link):
    path = write_delta(tmp_path, write_base(tmp_path), **link)

    with pytest.raises(SnapshotError, match=str(tmp_path)):
        open_checkpoint(path)


GOLDEN = Path(make_delta.__file__).parent
DIGEST = "278dab8b30e0b73a1c357504d71e7b30c0edb068fe1fcfd7fc8673602b42488b"


def test_the_golden_delta_is_written_with_the_same_bytes(tmp_path):
    assert make_delta.write(tmp_path) == DIGEST

    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 6
    for path in files:
        assert path.read_bytes() == (GOLDEN / path.relative_to(tmp_path)).read_bytes(), path


def test_the_golden_delta_is_read():
    with open_checkpoint(GOLDEN / "delta", expected_digest=DIGEST) as checkpoint:
        expected = make_delta.changed_table()
        assert checkpoint.tensor("table.weight").tobytes() == expected.tobytes()
