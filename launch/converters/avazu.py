"""Avazu (Kaggle 2014): clicks with 22 categories; `hour` becomes a time, an hour and a weekday."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import DataError
from launch.converters.sources import Format, find_file, read_batches

_INTEGERS = (
    "C1",
    "banner_pos",
    "device_type",
    "device_conn_type",
    *(f"C{i}" for i in range(14, 22)),
)
_STRINGS = (
    *("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model"),
)
FORMAT = Format(
    types={
        "id": pa.string(),
        "click": pa.int8(),
        "hour": pa.string(),
        **dict.fromkeys(_INTEGERS, pa.int32()),
        **dict.fromkeys(_STRINGS, pa.string()),
    }
)


def find_avazu(source: Path) -> Path:
    """Returns the labelled file of a folder."""
    return find_file(source, ["train.csv", "train"], "labelled rows")


def read_avazu(path: Path) -> Iterator[pa.Table]:
    """Yields the labelled rows without `id`, which is different in every row."""
    columns = ["click", "hour", *_INTEGERS, *_STRINGS]
    for table in read_batches(path, FORMAT, columns):
        try:
            time = pc.strptime(table["hour"], format="%y%m%d%H", unit="s")
        except pa.ArrowInvalid as exc:
            raise DataError(
                f"{path}: column hour: {exc}", "hours are written YYMMDDHH in this data set"
            ) from exc
        yield pa.table(
            {
                "label": table["click"],
                "time": time,
                "hour": pc.cast(pc.hour(time), pa.int8()),
                "weekday": pc.cast(pc.day_of_week(time), pa.int8()),
                **{name: table[name] for name in (*_INTEGERS, *_STRINGS)},
            }
        )
