"""MovieLens: ratings joined with users and films, as a table of likes.

Reads ML-1M and ML-100K style folders (`ratings.dat`, `users.dat`, `movies.dat`), the CSV folders of
the larger sets (`ratings.csv`, `movies.csv`), and atomic files (`*.inter`, `*.user`, `*.item`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import ConfigError, DataError
from launch.converters.sources import Format, find_file, find_optional, read_table

_NAMES = {
    "userId": "user_id",
    "movieId": "movie_id",
    "item_id": "movie_id",
    "zip_code": "zip",
    "movie_title": "title",
    "class": "genres",
    "release_year": "year",
}
_TYPES = {
    "user_id": pa.int64(),
    "movie_id": pa.int64(),
    "rating": pa.float64(),
    "timestamp": pa.int64(),
    "gender": pa.string(),
    "age": pa.int32(),
    "zip": pa.string(),
    "title": pa.string(),
    "genres": pa.string(),
    "year": pa.string(),  # one film of ML-100K has the year "unkonwn"
}
_YEAR = r"^(?P<title>.*?)\s*\((?P<year>[0-9]{4})\)$"


@dataclass(frozen=True, slots=True)
class Ratings:
    """The joined rows and what happened to the others."""

    table: pa.Table
    num_read: int
    num_dropped: int


def read_movielens(
    source: Path, drop: Sequence[float], positive_from: float, *, by_time: bool
) -> Ratings:
    """Returns the rows of a MovieLens folder with a `label` (rating >= positive_from).

    Rows with a rating in `drop` are left out. The rating itself is not kept: it is the label. With
    `by_time` the rows come oldest first; raises DataError where a time is missing.
    """
    ratings = _read(
        find_file(source, ["ratings.dat", "ratings.csv", "*.inter"], "ratings"),
        ("user_id", "movie_id", "rating", "timestamp"),
    )
    num_read = ratings.num_rows
    if drop:
        ratings = ratings.filter(
            pc.invert(pc.is_in(ratings["rating"], pa.array(drop, pa.float64())))
        )
    if by_time:
        ratings = _oldest_first(ratings, source)
    label = pc.cast(pc.greater_equal(ratings["rating"], positive_from), pa.int8())
    keep = [name for name in ("user_id", "movie_id", "timestamp") if name in ratings.column_names]
    table = ratings.select(keep)
    for patterns, names, key, clean in _SIDES:
        path = find_optional(source, patterns) if source.is_dir() else None
        if path is not None:
            table = _join(table, clean(_read(path, names)), key, path)
    table = table.append_column("label", label)
    return Ratings(table, num_read, num_read - table.num_rows)


def _read(path: Path, dat_names: tuple[str, ...]) -> pa.Table:
    """A raw file with its columns under our names."""
    suffix = path.suffixes[0] if path.name.count(".") else ""
    if suffix == ".dat":
        form = Format(
            delimiter="::", encoding="latin1", column_names=dat_names, types=_types(), quoted=False
        )
    elif suffix == ".csv":
        form = Format(types=_types())
    elif suffix in (".inter", ".user", ".item"):
        form = Format(delimiter="\t", types=_types(), quoted=False)
    else:
        raise ConfigError(f"{path}: not a file of MovieLens", "give the folder of the raw files")
    table = read_table(path, form)
    names = [name.partition(":")[0] for name in table.column_names]
    return table.rename_columns([_NAMES.get(name, name) for name in names])


def _types() -> dict[str, pa.DataType]:
    """The types of our columns under every header the sets write them with."""
    raw_names = {name: [name] for name in _TYPES}
    for raw, name in _NAMES.items():
        raw_names.setdefault(name, [name]).append(raw)
    return {
        raw + suffix: kind
        for name, kind in _TYPES.items()
        for raw in raw_names[name]
        for suffix in ("", ":token", ":token_seq", ":float")
    }


def _clean_users(users: pa.Table) -> pa.Table:
    columns = [
        name for name in ("gender", "age", "occupation", "zip") if name in users.column_names
    ]
    return users.select(["user_id", *columns])


def _clean_movies(movies: pa.Table) -> pa.Table:
    genres = movies["genres"].combine_chunks()
    separator = "|" if pc.any(pc.match_substring(genres, "|")).as_py() else " "
    columns = {"movie_id": movies["movie_id"], "title": movies["title"]}
    parts = pc.extract_regex(movies["title"], _YEAR)
    if "year" in movies.column_names:
        year = movies["year"]
    else:
        year = pc.struct_field(parts, "year")
        columns["title"] = pc.coalesce(pc.struct_field(parts, "title"), movies["title"])
    is_year = pc.match_substring_regex(year, "^[0-9]{4}$")
    columns["year"] = pc.cast(pc.if_else(is_year, year, None), pa.int32())
    columns["genres"] = pc.split_pattern(genres, separator)
    return pa.table(columns)


_Side = tuple[list[str], tuple[str, ...], str, Callable[[pa.Table], pa.Table]]
_SIDES: list[_Side] = [
    (
        ["users.dat", "*.user"],
        ("user_id", "gender", "age", "occupation", "zip"),
        "user_id",
        _clean_users,
    ),
    (
        ["movies.dat", "movies.csv", "*.item"],
        ("movie_id", "title", "genres"),
        "movie_id",
        _clean_movies,
    ),
]


def _join(table: pa.Table, side: pa.Table, key: str, path: Path) -> pa.Table:
    """Adds the columns of `side`; a key it does not know gets nulls. Keeps the rows' order."""
    known = side[key].combine_chunks()
    if pc.count_distinct(known).as_py() != len(known):
        raise DataError(f"{path}: a {key} stands there twice", "keep one row for each")
    position = pc.index_in(table[key], known)
    for name in side.column_names:
        if name != key:
            table = table.append_column(name, side[name].combine_chunks().take(position))
    return table


def _oldest_first(ratings: pa.Table, source: Path) -> pa.Table:
    if "timestamp" not in ratings.column_names or ratings["timestamp"].null_count:
        missing = ratings["timestamp"].null_count if "timestamp" in ratings.column_names else "all"
        raise DataError(
            f"{source}: {missing} ratings have no timestamp",
            "split at random: leave out --split-by time",
        )
    order = np.argsort(ratings["timestamp"].to_numpy(), kind="stable")
    return ratings.take(pa.array(order))
