"""The data of the accuracy benchmarks: train, valid and test of each set, in build/data.

Research sets are read from ../shared/data, where a developer keeps a copy of each; none of their
rows belongs into the repository. The flights come with a package.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from launch.converters.avazu import find_avazu, read_avazu
from launch.converters.criteo import find_criteo, read_criteo
from launch.converters.movielens import read_movielens
from launch.converters.splits import PARTS, Dealer, parse_split
from launch.converters.writer import write_parts
from launch.demo.flights import read_flights, split_by_days, write_split

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "build" / "data"
SOURCES = ROOT.parent / "shared" / "data"
_NEUTRAL = 3  # neither liked nor disliked: left out, as in the protocol of the paper


def prepare(name: str) -> Path:
    """Returns the folder of a set's parts, which are made where they are not there yet.

    Exits where the raw files of a research set are not at hand.
    """
    folder = DATA / name
    if not (folder / "test.parquet").exists():
        source = SOURCES / _SOURCES[name] if name in _SOURCES else None
        if source is not None and not source.exists():
            raise SystemExit(f"{name} wants the raw files at {source}; bring your own copy")
        _WRITERS[name](source or ROOT, folder)
    return folder


def by_time(source: Path, folder: Path) -> None:
    """Writes ML-1M as its file splits it by time, and the test rows of users new and known.

    Rows are never chosen by their timestamps: most liked ones of training have none.
    """
    file = pa.input_stream(str(source / "ratings.csv.zst"))
    columns = ["rating", "time_split"]
    options = pacsv.ConvertOptions(include_columns=columns)
    raw = pacsv.read_csv(file, convert_options=options)
    part = raw.filter(pc.not_equal(raw["rating"], _NEUTRAL))["time_split"]
    table = read_movielens(source, [_NEUTRAL], 4, by_time=False).table
    assert len(part) == table.num_rows, "the converter keeps the order of the rows"
    pieces = {
        name: table.filter(pc.equal(part, word))
        for name, word in zip(PARTS, ("train", "val", "test"), strict=True)
    }
    test = pieces["test"]
    known = pc.is_in(test["user_id"], pieces["train"]["user_id"].combine_chunks())
    pieces["known_users"] = test.filter(known)
    pieces["new_users"] = test.filter(pc.invert(known))
    folder.mkdir(parents=True, exist_ok=True)
    # The test file last: it says that all are there.
    for name in sorted(pieces, key="test".__eq__):
        pq.write_table(pieces[name], folder / f"{name}.parquet", row_group_size=65_536)


def movielens_100k(source: Path, folder: Path) -> None:
    """Writes ML-100K with all it says of users and films, titles as lists of words."""
    table = read_movielens(source, [_NEUTRAL], 4, by_time=False).table
    words = pc.split_pattern(pc.utf8_lower(table["title"]), " ")
    _write([table.drop_columns(["title"]).append_column("title_words", words)], folder)


def _write(tables: list[pa.Table], folder: Path) -> None:
    write_parts(tables, Dealer(parse_split("80/10/10", "random", 0)), folder, "label", force=True)


def _flights(_: Path, folder: Path) -> None:
    write_split(split_by_days(read_flights().table), folder)


def _criteo(source: Path, folder: Path) -> None:
    _write(list(read_criteo(find_criteo(source))), folder)


def _avazu(source: Path, folder: Path) -> None:
    _write(list(read_avazu(find_avazu(source))), folder)


_SOURCES = {
    "ml1m-time": "ml-1m",
    "ml100k": "ml-100k",
    "criteo": "criteo-10k",
    "avazu": "avazu-10k",
}
_WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "ml1m-time": by_time,
    "ml100k": movielens_100k,
    "flights": _flights,
    "criteo": _criteo,
    "avazu": _avazu,
}
