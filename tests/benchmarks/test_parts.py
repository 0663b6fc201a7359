"""The data of the accuracy benchmarks is split as their pages say."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import parts

RATINGS = """user_id,movie_id,rating,timestamp,time_split,movie_id_exact
1,10,5,978300019,train,1
1,11,3,978300020,train,1
2,10,4,,train,1
1,12,2,978300021,val,1
2,11,5,978300030,test,1
3,10,3,978300031,test,1
3,11,1,978300032,test,1
"""


@pytest.fixture
def source(tmp_path):
    """A folder of the raw files of ML-1M, with three users."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.csv.zst").write_bytes(
        pa.compress(RATINGS.encode(), codec="zstd", asbytes=True)
    )
    users = "".join(f"{user}::F::25::3::9000{user}\n" for user in (1, 2, 3))
    (folder / "users.dat").write_text(users)
    movies = "".join(f"{film}::Film {film} (1999)::Drama|War\n" for film in (10, 11, 12))
    (folder / "movies.dat").write_text(movies)
    return folder


def test_the_split_by_time_is_the_files_own_and_keeps_rows_without_a_time(source, tmp_path):
    parts.by_time(source, tmp_path / "out")

    read = {
        name: pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pydict()
        for name in ("train", "valid", "test")
    }
    pairs = {
        name: list(zip(rows["user_id"], rows["movie_id"], rows["label"], strict=True))
        for name, rows in read.items()
    }
    assert pairs["train"] == [(1, 10, 1), (2, 10, 1)]
    assert pairs["valid"] == [(1, 12, 0)]
    assert pairs["test"] == [(2, 11, 1), (3, 11, 0)]


def test_new_users_are_those_that_training_has_not(source, tmp_path):
    parts.by_time(source, tmp_path / "out")

    users = {
        name: pq.read_table(tmp_path / "out" / f"{name}.parquet")["user_id"].to_pylist()
        for name in ("known_users", "new_users")
    }
    assert users == {"known_users": [2], "new_users": [3]}


def test_without_the_raw_files_a_person_is_told_where_they_belong(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "SOURCES", tmp_path)
    monkeypatch.setattr(parts, "DATA", tmp_path / "data")

    with pytest.raises(SystemExit, match="bring your own copy"):
        parts.prepare("ml100k")


@pytest.mark.skipif(
    not (parts.SOURCES / "ml-100k").exists(), reason="ML-100K is not in ../shared/data"
)
def test_ml100k_has_all_that_is_known_of_users_and_films(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "DATA", tmp_path)

    folder = parts.prepare("ml100k")

    table = pq.read_table(folder / "train.parquet")
    assert {"gender", "age", "occupation", "zip", "year", "genres"} <= set(table.column_names)
    assert table["title_words"].type == pa.list_(pa.field("element", pa.string()))
    assert table.num_rows == 58_284
