"""The converters on small files written here in the formats of the data sets, and on the real ones
where they are at hand."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.cli import run
from tests.launch.command import ROOT, muxtable

DATA = ROOT.parent / "shared" / "data"


def real(name: str) -> Path:
    """A data set that may not be copied into the repository."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/data/{name}")
    return folder


def write_movielens(folder: Path, num_users: int = 30) -> None:
    """ML-1M's three files: user u rates film m with 1 + (u + m) mod 5 at second 100 u + m."""
    folder.mkdir(parents=True, exist_ok=True)
    users = range(1, num_users + 1)
    movies = range(1, 9)
    ratings = [f"{u}::{m}::{1 + (u + m) % 5}::{u * 100 + m}" for u in users for m in movies]
    (folder / "ratings.dat").write_text("\n".join(ratings) + "\n")
    rows = [f"{u}::{'FM'[u % 2]}::{18 + u % 3}::{u % 21}::0{u:04d}" for u in users]
    (folder / "users.dat").write_text("\n".join(rows) + "\n")
    films = [f"{m}::Amélie: Part {m} (200{m})::Comedy|Drama" for m in movies if m != 8]
    (folder / "movies.dat").write_bytes(("\n".join(films) + "\n").encode("latin1"))


def read_all(out: Path) -> pa.Table:
    """Train, valid and test one after the other."""
    return pa.concat_tables(
        pq.read_table(out / f"{part}.parquet") for part in ("train", "valid", "test")
    )


def test_movielens_joins_users_and_films(tmp_path):
    write_movielens(tmp_path / "raw")

    code = run(["convert", "movielens", str(tmp_path / "raw"), "--out", str(tmp_path), "--quiet"])

    rows = read_all(tmp_path).sort_by([("user_id", "ascending"), ("movie_id", "ascending")])
    first, eighth = rows.to_pylist()[0], rows.to_pylist()[7]
    assert code == 0
    assert first == {
        "user_id": 1,
        "movie_id": 1,
        "timestamp": 101,
        "gender": "M",
        "age": 19,
        "occupation": 1,
        "zip": "00001",
        "title": "Amélie: Part 1",
        "year": 2001,
        "genres": ["Comedy", "Drama"],
        "label": 0,
    }
    assert (eighth["movie_id"], eighth["title"], eighth["genres"]) == (8, None, None)


def test_movielens_drops_ratings_and_sets_the_label(tmp_path):
    write_movielens(tmp_path / "raw")
    options = ["--drop-rating", "3", "--drop-rating", "1", "--positive-from", "5"]

    done = muxtable("convert", "movielens", tmp_path / "raw", "--out", tmp_path, *options, "--json")

    rows = read_all(tmp_path).to_pylist()
    ratings = {1 + (row["user_id"] + row["movie_id"]) % 5 for row in rows}
    expected = [int((row["user_id"] + row["movie_id"]) % 5 == 4) for row in rows]
    assert ratings == {2, 4, 5}
    assert [row["label"] for row in rows] == expected
    assert done.document["rows"] == len(rows)
    assert done.document["dropped"] == 240 - len(rows)
    assert done.document["positive_rate"] == round(sum(expected) / len(rows), 6)


def test_a_random_split_is_exact_and_follows_its_seed(tmp_path):
    write_movielens(tmp_path / "raw")
    sizes, users = {}, {}

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / name
        options = ["--split", "70/20/10", "--split-seed", str(seed), "--quiet"]
        run(["convert", "movielens", str(tmp_path / "raw"), "--out", str(out), *options])
        parts = [pq.read_table(out / f"{part}.parquet") for part in ("train", "valid", "test")]
        sizes[name] = [part.num_rows for part in parts]
        users[name] = [(r["user_id"], r["movie_id"]) for r in parts[0].to_pylist()]

    assert sizes["a"] == sizes["c"] == [168, 48, 24]
    assert users["a"] == users["b"]
    assert users["a"] != users["c"]


def test_a_split_by_time_puts_the_newest_into_the_test(tmp_path):
    write_movielens(tmp_path / "raw")
    options = ["--split-by", "time", "--split", "50/25/25", "--quiet"]

    run(["convert", "movielens", str(tmp_path / "raw"), "--out", str(tmp_path), *options])

    train, valid, test = (
        pq.read_table(tmp_path / f"{part}.parquet")["timestamp"].to_pylist()
        for part in ("train", "valid", "test")
    )
    assert max(train) < min(valid) <= max(valid) < min(test)
    assert [len(train), len(valid), len(test)] == [120, 60, 60]


def test_a_share_of_nothing_writes_no_file(tmp_path):
    write_movielens(tmp_path / "raw")

    run(
        [
            "convert",
            "movielens",
            str(tmp_path / "raw"),
            "--out",
            str(tmp_path),
            "--split",
            "90/0/10",
        ]
    )

    assert not (tmp_path / "valid.parquet").exists()
    assert (tmp_path / "test.parquet").exists()


def test_criteo_keeps_missing_fields_as_nulls(tmp_path):
    line = "1\t\t-2\t" + "\t".join(["7"] * 11) + "\t" + "\t".join(["68fd1e64", ""] * 13)
    with gzip.open(tmp_path / "train.txt.gz", "wt") as file:
        file.write("\n".join([line] * 10) + "\n")

    code = run(["convert", "criteo", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"])

    row = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
    assert code == 0
    assert (row["label"], row["I1"], row["I2"], row["I3"]) == (1, None, -2, 7)
    assert (row["C1"], row["C2"], row["C25"], row["C26"]) == ("68fd1e64", None, "68fd1e64", None)


def test_avazu_reads_the_hour_as_a_time(tmp_path):
    names = "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
    names += "app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
    names += ",".join(f"C{i}" for i in range(14, 22))
    line = "10000169349117863715,1,14102123,1005,0,a,b,c,d,e,f,g,h,i,1,0,1,2,3,4,5,6,-1,8"
    (tmp_path / "train.csv").write_text("\n".join([names, *[line] * 10]) + "\n")

    code = run(["convert", "avazu", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"])

    row = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
    assert code == 0
    assert (row["label"], row["hour"], row["weekday"], row["C20"]) == (1, 23, 1, -1)
    assert str(row["time"]) == "2014-10-21 23:00:00"
    assert "id" not in row


def test_existing_files_are_replaced_only_by_force(tmp_path, capsys):
    write_movielens(tmp_path / "raw")
    arguments = ["convert", "movielens", str(tmp_path / "raw"), "--out", str(tmp_path), "--quiet"]
    run(arguments)
    before = (tmp_path / "train.parquet").stat().st_ino

    refused, forced = run(arguments), run([*arguments, "--force"])

    assert (refused, forced) == (2, 0)
    assert "train.parquet exists" in capsys.readouterr().err
    assert (tmp_path / "train.parquet").stat().st_ino != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: (raw / "ratings.dat").unlink(), "no ratings there"),
        (lambda raw: (raw / "ratings.dat").write_text("1::x::3::4\n"), "ratings.dat"),
        (lambda raw: (raw / "ratings.dat").write_text("1::2::3\n"), "ratings.dat"),
        (lambda raw: (raw / "ratings.dat").write_text(""), "ratings.dat"),
        (lambda raw: (raw / "users.dat").write_text("1::F::1::1::1\n" * 2), "stands there twice"),
    ],
    ids=["missing", "a word", "a field short", "empty", "user twice"],
)
def test_broken_sources_are_named_and_leave_nothing(tmp_path, capsys, damage, message):
    write_movielens(tmp_path / "raw")
    damage(tmp_path / "raw")

    code = run(["convert", "movielens", str(tmp_path / "raw"), "--out", str(tmp_path / "out")])

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["80/10", "80/10/20", "0/50/50", "a/b/c", "80/-10/30"])
def test_a_split_that_is_none_is_refused(tmp_path, capsys, split):
    write_movielens(tmp_path / "raw")
    arguments = ["convert", "movielens", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]

    code = run([*arguments, "--split", split])

    assert code == 2
    assert "--split 80/10/10" in capsys.readouterr().err


def test_movielens_1m_has_the_rows_of_the_papers_protocol(tmp_path):
    source = real("ml-1m")

    done = muxtable("convert", "movielens", source, "--out", tmp_path, "--drop-rating", 3, "--json")

    document = done.document
    assert document["rows"] == 739_012
    assert round(document["positive_rate"], 4) == 0.7784
    assert [file["rows"] for file in document["files"]] == [591_209, 73_901, 73_902]
    groups = pq.ParquetFile(tmp_path / "train.parquet").metadata
    assert {groups.row_group(i).num_rows for i in range(groups.num_row_groups - 1)} == {65_536}


def test_movielens_1m_has_no_split_by_time_where_times_are_missing(tmp_path, capsys):
    source = real("ml-1m")
    arguments = ["convert", "movielens", str(source), "--out", str(tmp_path / "out")]

    code = run([*arguments, "--split-by", "time"])

    assert code == 2
    assert "468696 ratings have no timestamp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "folder", "rows"),
    [
        ("movielens", "ml-100k", 100_000),
        ("criteo", "criteo-10k", 10_000),
        ("avazu", "avazu-10k", 9_999),
    ],
)
@pytest.mark.parametrize("by", ["random", "time"])
def test_real_files_are_converted(tmp_path, name, folder, rows, by):
    source = real(folder)

    done = muxtable("convert", name, source, "--out", tmp_path, "--split-by", by, "--json")

    assert done.document["rows"] == rows
    assert read_all(tmp_path).num_rows == rows
