import json
import threading
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from features.errors import SnapshotError
from storage.bundle import BundleWriter, open_bundle
from storage.tensors import DTYPES
from tests.golden.bundle_v1 import make_bundle
from tests.storage.faults import ShortDisk

GOLDEN = Path(make_bundle.__file__).parent / "bundle"
GOLDEN_DIGEST = "3051893ceb4eeb0bddd3710a07b4d89dd992ed41c099912d80cbc0f2ddd7f307"
VERIFY = pytest.mark.parametrize("verify", [True, "lazy", False])


def write(parent: Path, tensors: dict, name: str = "b", **options) -> Path:
    with BundleWriter(parent, name, "snapshot", "attempt", **options) as writer:
        for tensor, array in tensors.items():
            writer.add_tensor(tensor, array)
        writer.commit({})
    return parent / name


@st.composite
def strided(draw):
    """Arrays of any dtype, byte order, shape and strides."""
    dtype = draw(st.sampled_from([*DTYPES.values(), np.dtype(">i4"), np.dtype(">f8")]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    array = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, allow_nan=False)))
    axes = draw(st.permutations(range(array.ndim)))
    array = array.transpose(axes)
    cuts = tuple(
        slice(draw(st.integers(0, side)), None, draw(st.sampled_from([1, 2, 3, -1, -2])))
        for side in array.shape
    )
    return array[cuts] if array.ndim else array


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(array=strided(), part_bytes=st.sampled_from([8, 64, 4096, 2**28]), data=st.data())
def test_what_is_written_is_read_back_whatever_dtype_shape_and_strides(
    tmp_path_factory, array, part_bytes, data
):
    row_bytes = array[:1].nbytes if array.ndim else array.nbytes
    part_bytes = max(part_bytes, row_bytes)

    path = write(tmp_path_factory.mktemp("b"), {"x": array}, part_bytes=part_bytes)

    bundle = open_bundle(path, data.draw(st.sampled_from([True, "lazy", False])))
    whole = bundle.tensor("x")
    assert whole.shape == array.shape
    assert whole.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(whole, array)
    if array.ndim:
        np.testing.assert_array_equal(
            np.concatenate([rows for _, rows in bundle.parts("x")]), array
        )
        first = data.draw(st.integers(0, len(array)))
        end = data.draw(st.integers(first, len(array)))
        np.testing.assert_array_equal(bundle.read_rows("x", first, end), array[first:end])


@VERIFY
def test_rows_across_many_mebibytes_are_read_into_a_table_with_padding(tmp_path, verify):
    table = np.random.default_rng(1).random((200_000, 16), dtype=np.float32)[:, :15]
    path = write(tmp_path, {"weight": table}, part_bytes=5 * 2**20)

    bundle = open_bundle(path, verify)
    out = np.zeros((200_000, 16), dtype=np.float32)
    for first, end in [(0, 1), (199_999, 200_000), (17, 150_001), (0, 200_000), (5, 5)]:
        bundle.read_rows("weight", first, end, out[first:end, :15])

    np.testing.assert_array_equal(out[:, :15], table)
    assert not out[:, 15].any()
    np.testing.assert_array_equal(bundle.tensor("weight"), table)
    assert len(bundle.parts("weight")) == 3


def test_rows_larger_than_a_mebibyte_are_written_and_read(tmp_path):
    wide = np.arange(3 * 700_000, dtype=np.int32).reshape(700_000, 3).T
    path = write(tmp_path, {"wide": wide}, part_bytes=4 * 2**20)

    bundle = open_bundle(path, "lazy")

    np.testing.assert_array_equal(bundle.read_rows("wide", 1, 3), wide[1:])
    np.testing.assert_array_equal(bundle.tensor("wide"), wide)


def test_parts_that_are_no_whole_pages_are_joined_by_a_copy(tmp_path):
    odd = np.arange(5001 * 3, dtype=np.uint8).reshape(3, 5001)
    path = write(tmp_path, {"odd": odd}, part_bytes=6000)

    whole = open_bundle(path).tensor("odd")

    np.testing.assert_array_equal(whole, odd)
    assert not whole.flags.writeable


@VERIFY
def test_arrays_are_mapped_read_only_and_outlive_the_bundle_and_its_files(tmp_path, verify):
    table = np.arange(2**20, dtype=np.float32).reshape(-1, 16)
    path = write(tmp_path, {"weight": table, "small": table[:3]}, part_bytes=2**20)
    with open_bundle(path, verify) as bundle:
        arrays = [bundle.tensor("weight"), bundle.tensor("small"), bundle.parts("weight")[1][1]]

    for file in path.iterdir():
        file.unlink()

    for array, expected in zip(arrays, [table, table[:3], table[2**14 : 2**15]], strict=True):
        np.testing.assert_array_equal(array, expected)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_the_same_content_is_written_as_the_same_bytes_whatever_the_threads(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.random((1000 * i + 1, 5)) for i in range(25)}

    paths = [
        write(tmp_path, tensors, f"b{threads}", threads=threads, part_bytes=2**17)
        for threads in (1, 3)
    ]
    resaved = {name: open_bundle(paths[0]).tensor(name) for name in tensors}
    paths.append(write(tmp_path, resaved, "again", part_bytes=2**17))

    one, *others = [{f.name: f.read_bytes() for f in path.iterdir()} for path in paths]
    assert all(other == one for other in others)
    assert len({name for name in one if "small" in name}) < 15


def test_the_golden_bundle_is_written_with_the_same_bytes(tmp_path):
    digest = make_bundle.write(tmp_path)

    assert digest == GOLDEN_DIGEST
    written = {f.name: f.read_bytes() for f in (tmp_path / "bundle").iterdir()}
    assert written == {f.name: f.read_bytes() for f in GOLDEN.iterdir()}


@VERIFY
def test_the_golden_bundle_is_read(verify):
    expected = make_bundle.arrays()

    bundle = open_bundle(GOLDEN, verify, GOLDEN_DIGEST)

    assert bundle.content == make_bundle.CONTENT
    assert bundle.file("profile.json") == make_bundle.PROFILE
    assert bundle.manifest.parent == "ab" * 32
    assert set(bundle.tensor_names) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(bundle.tensor(name), array)
        assert bundle.tensor(name).dtype == array.dtype.newbyteorder("<")


def test_tensor_files_are_safetensors_files_with_data_on_a_page():
    expected = make_bundle.arrays()
    small = load_file(GOLDEN / "00008-small.safetensors")
    parts = [load_file(file)["weight"] for file in sorted(GOLDEN.glob("*-weight.*"))]

    np.testing.assert_array_equal(np.concatenate(parts), expected["weight"])
    for name, array in small.items():
        np.testing.assert_array_equal(array, expected[name])
    for file in GOLDEN.glob("*.safetensors"):
        size = int.from_bytes(file.read_bytes()[:8], "little")
        assert (8 + size) % 4096 == 0


def test_files_are_write_once_and_nothing_is_left_beside_the_bundle(tmp_path):
    path = write(tmp_path, {"x": np.arange(3)})

    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o444}
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path, {"x": np.arange(3)})
    (tmp_path / "empty").mkdir()

    for name in ("b", "empty"):
        with pytest.raises(SnapshotError, match="exists already"):
            write(tmp_path, {"x": np.arange(4)}, name)

    assert open_bundle(tmp_path / "b").tensor("x").tolist() == [0, 1, 2]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b", "empty"]


def test_of_many_writers_of_one_name_exactly_one_wins(tmp_path):
    def attempt(value: int) -> None:
        try:
            write(tmp_path, {"x": np.full(1000, value)})
            won.append(value)
        except SnapshotError as exc:
            lost.append(exc)

    won: list[int] = []
    lost: list[SnapshotError] = []
    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert len(lost) == 7
    assert open_bundle(tmp_path / "b").tensor("x")[0] == won[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_an_error_in_the_caller_removes_what_was_written(tmp_path):
    def give_up() -> None:
        with BundleWriter(tmp_path, "b", "snapshot", "a") as writer:
            writer.add_tensor("x", np.zeros(10**6))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()

    assert list(tmp_path.iterdir()) == []


def test_a_copy_lets_the_caller_go_on_and_a_part_above_the_budget_is_written_at_once(tmp_path):
    array = np.arange(2**20, dtype=np.int64)

    with BundleWriter(
        tmp_path, "b", "snapshot", "a", copy_budget=3 * 2**20, part_bytes=2**21
    ) as writer:
        writer.add_tensor("copied", array, copy=True)
        array[:] = -1
        writer.add_tensor("at_once", array, copy=True)
        writer.commit({})

    bundle = open_bundle(tmp_path / "b")
    np.testing.assert_array_equal(bundle.tensor("copied"), np.arange(2**20))
    assert (bundle.tensor("at_once") == -1).all()


def test_short_reads_and_writes_lose_nothing(tmp_path):
    arrays = {"x": np.arange(300), "y": np.arange(5.0)}

    path = write(tmp_path, arrays, disk=ShortDisk())
    bundle = open_bundle(path, "lazy", disk=ShortDisk())

    np.testing.assert_array_equal(bundle.read_rows("x", 3, 290), arrays["x"][3:290])
    open_bundle(path, disk=ShortDisk())


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.array(["a"]), "dtype"),
        (np.array([object()]), "dtype"),
        (np.zeros(1, np.complex64), "dtype"),
        (np.zeros((1,) * 9), "fewer axes"),
    ],
)
def test_an_array_that_no_bundle_holds_is_refused(tmp_path, array, told):
    with pytest.raises(SnapshotError, match=told):
        write(tmp_path, {"x": array})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"a": [1, {"b": np.int64(3)}]}, r"content\.a\[1\]\.b is a int64"),
        ({"a": float("nan")}, r"content\.a is nan"),
        ({"a": {1: 2}}, r"content\.a has the key 1"),
        ({"a": "\ud800"}, "lone surrogates"),
        ({"a": 2**2000}, "1024 bits"),
        ({"a": b"x"}, "is a bytes"),
    ],
)
def test_content_that_is_no_plain_json_is_refused_with_its_place(tmp_path, content, place):
    with (
        BundleWriter(tmp_path, "b", "snapshot", "a") as writer,
        pytest.raises(SnapshotError, match=place),
    ):
        writer.commit(content)

    assert list(tmp_path.iterdir()) == []


def test_content_comes_back_equal_with_tuples_as_lists(tmp_path):
    with BundleWriter(tmp_path, "b", "snapshot", "a") as writer:
        writer.commit({"a": (1, 2.5), "ä": None, "big": 2**127})

    assert open_bundle(tmp_path / "b").content == {"a": [1, 2.5], "ä": None, "big": 2**127}


def test_a_bundle_too_large_for_its_manifest_is_refused_before_it_is_written(tmp_path):
    with (
        BundleWriter(tmp_path, "b", "snapshot", "a", part_bytes=2**10) as writer,
        pytest.raises(SnapshotError, match="10,000"),
    ):
        writer.add_tensor("x", np.zeros(2**23, dtype=np.uint8))

    assert list(tmp_path.iterdir()) == []


def test_names_twice_or_taken_are_refused(tmp_path):
    with BundleWriter(tmp_path, "b", "snapshot", "a") as writer:
        writer.add_tensor("x", np.zeros(1))
        writer.add_file("x", b"")
        with pytest.raises(SnapshotError, match="twice"):
            writer.add_tensor("x", np.zeros(1))
        for name in ("x", "manifest.json", "y.safetensors"):
            with pytest.raises(SnapshotError, match="taken"):
                writer.add_file(name, b"")


def test_questions_a_bundle_cannot_answer_name_what_it_has(tmp_path):
    bundle = open_bundle(write(tmp_path, {"weight": np.zeros((3, 2), np.float32)}))

    with pytest.raises(SnapshotError, match="tensors it has: weight"):
        bundle.tensor("wieght")
    with pytest.raises(SnapshotError, match="it has 3 rows"):
        bundle.read_rows("weight", 0, 4)
    with pytest.raises(SnapshotError, match="do not fit"):
        bundle.read_rows("weight", 0, 3, np.zeros((3, 3), np.float32))
    with pytest.raises(SnapshotError, match="do not fit"):
        bundle.read_rows("weight", 0, 3, np.zeros((3, 2), np.float64))
    with pytest.raises(SnapshotError, match="files it has: none"):
        bundle.file("00000-small.safetensors")


def test_the_manifest_is_json_that_anyone_can_read():
    manifest = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))

    assert manifest["format_version"] == 1
    assert [tensor["name"] for tensor in manifest["tensors"]] == sorted(make_bundle.arrays())
