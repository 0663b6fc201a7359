"""Small Parquet files with features of every kind, each value a function of the row's number."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.parquet import open_dataset
from features.profile import build_profile
from features.schema import FeatureSet
from features.settings import DataSettings, FeatureSettings, FeaturesSettings, TableSettings

TABLE = TableSettings(rows=1000, exact_below=4)
DATA = DataSettings(train="*.parquet", label="label", weight="weight")
FEATURES = FeatureSet.build(
    DATA,
    FeaturesSettings(
        categorical=["row", "city", "flag"],
        list=["tags"],
        sequence=["history"],
        dense=["price", "age"],
        cross={"city_flag": ["city", "flag"]},
    ),
    {
        "history": FeatureSettings(max_length=3),
        "age": FeatureSettings(bucketize=4),
    },
    TABLE,
)


def table_of(first, count):
    """The rows `first` .. `first + count - 1`."""
    rows = range(first, first + count)
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "city": pa.array([None if r % 7 == 3 else f"city {r % 11}" for r in rows], pa.string()),
            "flag": pa.array([r % 3 == 0 for r in rows], pa.bool_()),
            "tags": pa.array(
                [None if r % 5 == 1 else list(range(r % 4)) for r in rows], pa.list_(pa.int32())
            ),
            "history": pa.array(
                [[f"page {r + i}" for i in range(r % 6)] for r in rows], pa.list_(pa.string())
            ),
            "price": pa.array([float("nan") if r % 9 == 2 else r / 2 for r in rows], pa.float64()),
            "age": pa.array([None if r % 8 == 5 else r % 50 for r in rows], pa.int16()),
            "label": pa.array([r % 2 for r in rows], pa.int8()),
            "weight": pa.array([1 + r % 3 for r in rows], pa.float32()),
        }
    )


def write_files(folder, row_groups):
    """Writes a file for each list of row counts, rows numbered through; returns the dataset."""
    first = 0
    for number, groups in enumerate(row_groups):
        with pq.ParquetWriter(
            folder / f"part-{number:03}.parquet", table_of(0, 0).schema
        ) as writer:
            for rows in groups:
                writer.write_table(table_of(first, rows), row_group_size=max(rows, 1))
                first += rows
    return open_dataset("*.parquet", folder)


def profile_of(dataset):
    """The profile of such files."""
    return build_profile(dataset, FEATURES, TABLE)


def first_rows(row_groups):
    """The number of the first row of each (file, row group)."""
    first, out = 0, {}
    for file, groups in enumerate(row_groups):
        for group, rows in enumerate(groups):
            out[file, group] = first
            first += rows
    return out


def rows_in(batch):
    """The numbers of a batch's rows."""
    return batch.columns["row"].keys.astype(np.int64).tolist()


def facts(batch):
    """Everything a batch says of each of its rows, by the number of the row."""
    said = {}
    for i, row in enumerate(rows_in(batch)):
        columns = {}
        for name, column in batch.columns.items():
            at = slice(i, i + 1)
            if column.offsets is not None:
                at = slice(column.offsets[i], column.offsets[i + 1])
            keys = column.keys[at].tolist()
            nulls = [0] * len(keys) if column.nulls is None else column.nulls[at].tolist()
            columns[name] = keys, nulls
        numbers = batch.dense[i].tobytes(), float(batch.label[i]), float(batch.weight[i])
        said[row] = columns, numbers
    return said
