import contextlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import DataError
from features.parquet import open_dataset
from features.schema import FeatureSet
from features.settings import DataSettings, FeatureSettings, FeaturesSettings, TableSettings

DATA = DataSettings(train="*.parquet", label="click", weight="w")


def feature_set(**settings):
    features = settings.pop("features", FeaturesSettings(categorical=["user"], dense=["price"]))
    return FeatureSet.build(DATA, features, settings, TableSettings(rows=100))


def table(**columns):
    return pa.table({"user": [1, 2], "price": [0.5, 1], "click": [0, 1], "w": [1, 2]} | columns)


def write(folder, **tables):
    for name, content in tables.items():
        pq.write_table(content, folder / f"{name}.parquet")


def test_a_dataset_knows_its_files_and_row_groups(tmp_path):
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "b.parquet", row_group_size=4)
    pq.write_table(pa.table({"x": range(3)}), tmp_path / "a.parquet")

    dataset = open_dataset("*.parquet", tmp_path)

    assert [file.path for file in dataset.files] == ["a.parquet", "b.parquet"]
    assert dataset.row_groups == ((3,), (4, 4, 2))
    assert dataset.num_rows == 13
    assert dataset.files[1].size == (tmp_path / "b.parquet").stat().st_size
    assert dataset.read_row_group(1, 1, ["x"]).column("x").to_pylist() == [4, 5, 6, 7]


def test_the_digest_follows_names_sizes_and_rows(tmp_path):
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "a.parquet", row_group_size=5)
    first = open_dataset("*.parquet", tmp_path).digest()
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    elsewhere = open_dataset("*.parquet", moved).digest()

    pq.write_table(pa.table({"x": range(10)}), tmp_path / "a.parquet", row_group_size=4)
    cut_otherwise = open_dataset("*.parquet", tmp_path).digest()
    (tmp_path / "a.parquet").rename(tmp_path / "b.parquet")
    renamed = open_dataset("*.parquet", tmp_path).digest()

    assert elsewhere == first
    assert len({first, cut_otherwise, renamed}) == 3


def encrypted(path):
    path.write_bytes(b"PARE" + bytes(20) + struct.pack("<I", 8) + b"PARE")


def cut(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def claim_huge_footer(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + struct.pack("<I", 0x7FFFFFFF) + b"PAR1")


def garble_footer(path):
    whole = path.read_bytes()
    (length,) = struct.unpack("<I", whole[-8:-4])
    path.write_bytes(whole[: -8 - length] + b"\xff" * length + whole[-8:])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
        (lambda path: path.write_bytes(b"PAR1"), "4 bytes are too few for a Parquet file"),
        (
            lambda path: path.write_bytes(b"user,click\n1,0\n"),
            "is not Parquet (it begins with b'use",
        ),
        (cut, "the file is cut short"),
        (encrypted, "the file is encrypted"),
        (claim_huge_footer, "its footer claims 2147483647 bytes"),
        (garble_footer, "cannot be read: "),
    ],
    ids=["empty", "tiny", "csv", "cut", "encrypted", "huge footer", "garbled footer"],
)
def test_a_file_that_is_no_whole_parquet_file_is_named(tmp_path, damage, said):
    write(tmp_path, good=table(), other=table())
    damage(tmp_path / "other.parquet")

    with pytest.raises(DataError) as caught:
        open_dataset("*.parquet", tmp_path)

    assert caught.value.what.startswith("other.parquet: ")
    assert said in caught.value.what
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_every_cut_of_a_file_is_refused(tmp_path, keep):
    pq.write_table(pa.table({"x": np.arange(5000)}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: int(len(whole) * keep)])

    with pytest.raises(DataError, match=r"a\.parquet: the file is cut short"):
        open_dataset("a.parquet", tmp_path)


UNREADABLE = """
import os, sys
from pathlib import Path
from features.errors import DataError
from features.parquet import open_dataset

os.chdir(sys.argv[1])
os.setgid(65534)
os.setuid(65534)
try:
    open_dataset("a.parquet", Path("."))
except DataError as exc:
    print(exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without rights")
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "said"),
    [
        (0o000, 0o755, "a.parquet: no right to read it"),
        (0o644, 0o700, '"a.parquet" cannot be looked at: Permission denied'),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, file_mode, folder_mode, said):
    write(tmp_path, a=table())
    (tmp_path / "a.parquet").chmod(file_mode)
    tmp_path.chmod(folder_mode)

    out = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said in out.stdout


def test_two_columns_of_one_name_are_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    write(tmp_path, a=twice)

    with pytest.raises(DataError, match=r'a\.parquet: there are 2 columns named "x"'):
        open_dataset("a.parquet", tmp_path)


def test_a_file_without_rows_is_skipped_with_a_warning(tmp_path, caplog):
    write(tmp_path, a=table().slice(0, 0), b=table())

    dataset = open_dataset("*.parquet", tmp_path)

    assert dataset.num_rows == 2
    assert "a.parquet: the file has no rows and is skipped" in caplog.text


def test_files_without_any_row_are_refused(tmp_path):
    write(tmp_path, a=table().slice(0, 0), b=table().slice(0, 0))

    with pytest.raises(DataError, match=r"no rows: 2 file\(s\), the first a\.parquet, have none"):
        open_dataset("*.parquet", tmp_path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user", pa.array([1, 2], pa.int32())),
        ("user", pa.array([1, 2], pa.uint64())),
        ("user", pa.array([True, False])),
        ("user", pa.array([1, 2]).dictionary_encode()),
        ("user", pa.nulls(2)),
        ("price", pa.array([1, 2], pa.int8())),
        ("click", pa.array([True, False])),
        ("other", pa.array(["x", "y"])),
    ],
)
def test_files_may_store_the_same_values_differently(tmp_path, column, values):
    write(tmp_path, a=table(other=[1, 2]), b=table(**{column: values}))

    open_dataset("*.parquet", tmp_path).check(feature_set())


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["x", "y"], pa.large_string()),
        pa.array(["x", "y"], pa.string_view()),
        pa.array([b"x", b"y"], pa.binary()),
        pa.array(["x", "y"]).dictionary_encode(),
    ],
)
def test_files_may_store_strings_in_any_layout(tmp_path, values):
    write(tmp_path, a=table(user=["x", "y"]), b=table(user=values))

    open_dataset("*.parquet", tmp_path).check(feature_set())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1, 2]), pa.array(["1", "2"])),
        (pa.array(["1", "2"]), pa.array([1, 2], pa.int8())),
        (pa.array([1, 2], pa.date32()), pa.array([1, 2], pa.int32())),
        (pa.array([1, 2], pa.date32()), pa.array([1, 2], pa.timestamp("s"))),
        (pa.array(["1"] * 2).dictionary_encode(), pa.array([1, 2]).dictionary_encode()),
    ],
)
def test_ids_that_mean_something_else_in_another_file_are_refused(tmp_path, first, second):
    write(tmp_path, a=table(user=first), b=table(user=second))

    with pytest.raises(DataError) as caught:
        open_dataset("*.parquet", tmp_path).check(feature_set())

    # Parquet has no seconds and no dictionaries of integers: what was read back is named.
    stored = [pq.read_schema(tmp_path / f"{name}.parquet").field("user").type for name in "ab"]
    assert caught.value.what == (
        f'column "user" is {stored[0]} in a.parquet, but {stored[1]} in b.parquet'
    )


def test_a_derived_part_may_come_from_dates_in_one_file_and_timestamps_in_another(tmp_path):
    write(
        tmp_path,
        a=table(user=pa.array([1, 2], pa.date32())),
        b=table(user=pa.array([1, 2], pa.timestamp("ns"))),
    )
    derived = feature_set(user=FeatureSettings(derive="weekday"))

    open_dataset("*.parquet", tmp_path).check(derived)


@pytest.mark.parametrize(
    ("dropped", "said", "fix"),
    [
        ("user", 'column "user" of feature "user" is missing', 'did you mean "users"?'),
        ("price", 'column "price" of feature "price" is missing', "the file has "),
        ("click", 'column "click" of the label is missing', 'did you mean "clicked"?'),
        ("w", 'column "w" of the weight is missing', "the file has "),
    ],
)
def test_a_missing_column_is_named_with_the_nearest_right_one(tmp_path, dropped, said, fix):
    other = table(users=[1, 2], clicked=[0, 1]).drop_columns([dropped])
    write(tmp_path, a=table(users=[1, 2], clicked=[0, 1]), b=other)

    with pytest.raises(DataError) as caught:
        open_dataset("*.parquet", tmp_path).check(feature_set())

    assert caught.value.what == f"b.parquet: {said}"
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("user", [0.5, 1.5], 'column "user" holds double, not ids'),
        ("user", [[1], [2]], 'column "user" of categorical feature "user" holds list'),
        ("price", ["1", "2"], 'dense column "price" holds string, not numbers'),
        ("click", ["yes", "no"], 'label column "click" holds string, not numbers'),
        ("w", [[1], [2]], 'weight column "w" holds list'),
    ],
)
def test_a_type_that_does_not_fit_is_named_before_a_row_is_read(tmp_path, column, values, said):
    write(tmp_path, a=table(), b=table(**{column: values}))

    with pytest.raises(DataError) as caught:
        open_dataset("*.parquet", tmp_path).check(feature_set())

    assert caught.value.what.startswith("b.parquet: ")
    assert said in caught.value.what


def test_ids_of_another_class_than_training_saw_are_refused(tmp_path):
    write(tmp_path, a=table())

    with pytest.raises(
        DataError, match="holds int64, integers, but the feature was trained on str"
    ):
        open_dataset("*.parquet", tmp_path).check(feature_set(), {"user": "string"})


def test_damaged_pages_are_named_with_their_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.arange(4000)}), path, row_group_size=1000)
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset)
        file.write(b"\xee" * chunk.total_compressed_size)

    dataset = open_dataset("a.parquet", tmp_path)

    with pytest.raises(DataError, match=r"a\.parquet, row group 2: cannot be read: "):
        dataset.read_row_group(0, 2, ["x"])
    assert dataset.read_row_group(0, 3, ["x"]).num_rows == 1000


def test_a_flipped_bit_is_found_where_the_file_has_checksums(tmp_path):
    path = tmp_path / "a.parquet"
    options = {"write_page_checksum": True, "use_dictionary": False, "compression": "none"}
    pq.write_table(pa.table({"x": np.arange(4000)}), path, **options)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    whole = bytearray(path.read_bytes())
    whole[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(whole)

    dataset = open_dataset("a.parquet", tmp_path)

    with pytest.raises(DataError, match=r"row group 0: cannot be read: .*CRC"):
        dataset.read_row_group(0, 0, ["x"])


def read_all(folder):
    """Returns (the rows of each row group, the rows that reading it gives)."""
    dataset = open_dataset("a.parquet", folder)
    names = [name for name in ("x", "s", "l") if name in dataset.schema.names]
    groups = range(len(dataset.row_groups[0]))
    sizes = tuple(dataset.read_row_group(0, group, names).num_rows for group in groups)
    return dataset.row_groups[0], sizes


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"x": np.arange(500), "s": [f"v{i % 40}" for i in range(500)], "l": [[1, 2]] * 500}
    pq.write_table(pa.table(columns), path, row_group_size=250)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refusals = []

    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(4, len(whole), random.integers(1, 6)):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            promised, sizes = read_all(tmp_path)
        except DataError as exc:
            refusals.append(exc.what)
        else:
            assert sizes == promised

    assert len(refusals) > 50
    assert all(what.startswith("a.parquet") for what in refusals)


def test_names_with_dots_bring_no_other_columns(tmp_path):
    content = pa.table({"a": [1], "a.b": [2], "list": [[3]], "list.list": ["x"]})
    write(tmp_path, a=content)

    dataset = open_dataset("a.parquet", tmp_path)

    for name in content.column_names:
        read = dataset.read_row_group(0, 0, [name])
        assert read.column_names == [name]
        assert read.column(name).to_pylist() == content.column(name).to_pylist()


def test_strings_are_read_as_dictionaries_where_their_values_repeat(tmp_path):
    rows = 8000
    content = pa.table(
        {
            "few": [f"value {i % 50}" for i in range(rows)],
            "unique": [f"a rather long value {i:012}" for i in range(rows)],
            "number": range(rows),
        }
    )
    pq.write_table(content, tmp_path / "a.parquet", row_group_size=4000)

    with open_dataset("a.parquet", tmp_path).open_reader(content.column_names) as reader:
        tables = [reader.row_group(0, 0), reader.row_group(0, 1)]

    for table_read in tables:
        assert pa.types.is_dictionary(table_read.schema.field("few").type)
    # What the first row group showed holds for the next one.
    assert tables[1].schema.field("unique").type == pa.string()
    for name in content.column_names:
        read = [value for table_read in tables for value in table_read.column(name).to_pylist()]
        assert read == content.column(name).to_pylist()


@pytest.mark.parametrize("block_rows", [1, 7, 100, 1000])
@pytest.mark.parametrize("first_block", [0, 2])
def test_reading_forward_gives_the_rows_of_reading_at_once(tmp_path, block_rows, first_block):
    content = pa.table({"x": range(500), "s": [f"v{i % 90}" for i in range(500)]})
    pq.write_table(content, tmp_path / "a.parquet", data_page_size=64)

    with open_dataset("a.parquet", tmp_path).open_reader(["x", "s"]) as reader:
        tables = list(reader.forward(0, 0, block_rows, first_block))

    starts = range(first_block * block_rows, 500, block_rows)
    assert [t.column("x").to_pylist() for t in tables] == [
        list(range(start, min(start + block_rows, 500))) for start in starts
    ]


@pytest.mark.parametrize(("first", "count"), [(0, 500), (0, 10), (490, 10), (123, 200)])
def test_some_rows_of_a_row_group_are_those_rows(tmp_path, first, count):
    pq.write_table(pa.table({"x": range(500)}), tmp_path / "a.parquet")

    with open_dataset("a.parquet", tmp_path).open_reader(["x"]) as reader:
        rows = reader.rows(0, 0, first, count)

    assert rows.column("x").to_pylist() == list(range(first, first + count))


def num_open(folder):
    """How many files of a folder this process has open."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        # The one that lists the folder is gone by now.
        with contextlib.suppress(FileNotFoundError):
            links.append(link.readlink())
    return sum(folder in link.parents for link in links)


def test_a_reader_keeps_few_files_open(tmp_path):
    for number in range(12):
        pq.write_table(pa.table({"x": [number]}), tmp_path / f"{number:02}.parquet")
    dataset = open_dataset("*.parquet", tmp_path)

    with dataset.open_reader(["x"]) as reader:
        values = [reader.row_group(file, 0).column("x")[0].as_py() for file in range(12)]
        while_open = num_open(tmp_path)

    assert values == list(range(12))
    assert 1 <= while_open <= 4
    assert num_open(tmp_path) == 0


def test_a_file_that_is_gone_is_named(tmp_path):
    write(tmp_path, a=table())
    dataset = open_dataset("a.parquet", tmp_path)
    (tmp_path / "a.parquet").unlink()

    with pytest.raises(DataError, match=r"a\.parquet: the file is gone"):
        dataset.read_row_group(0, 0, ["user"])


def test_an_extension_type_that_nobody_registered_runs_no_code(tmp_path):
    canary = tmp_path / "ran"
    payload = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    field = pa.field(
        "user",
        pa.int64(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": payload,
        },
    )
    schema = pa.schema([field, *table().schema.remove(0)])
    write(tmp_path, a=pa.Table.from_arrays(table().columns, schema=schema))

    dataset = open_dataset("a.parquet", tmp_path)
    dataset.check(feature_set())
    read = dataset.read_row_group(0, 0, ["user"])

    assert read.num_rows == 2
    assert not canary.exists()
    assert "ray" not in sys.modules
