"""A small snapshot with features of every kind, and made-up values for them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeatureSettings, FeaturesSettings, TableSettings
from storage.codecs.registry import codec_named
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot
from tests.features.statistics_of import Seen, counted, edged, known
from trainer.representations.registry import build_layout

ROWS = 5003
WIDTH = 8
LEVELS = ("gold", "silver", "")


def feature_set(table: TableSettings) -> FeatureSet:
    return FeatureSet.build(
        None,
        FeaturesSettings.model_validate(
            {
                "categorical": ["user", "city", "hour", "level"],
                "list": ["tags"],
                "sequence": ["history"],
                "dense": ["price"],
                "cross": {"user_city": ["user", "city"]},
            }
        ),
        {
            "user": FeatureSettings(lookups=3),
            "tags": FeatureSettings(lookups=2, pooling="mean"),
            "history": FeatureSettings(lookups=1, pooling="last", max_length=3),
            "hour": FeatureSettings(derive="hour", column="time", exact=False),
            "level": FeatureSettings(exact=True),
            "price": FeatureSettings(bucketize=4, exact=False),
        },
        table,
    )


def layout(rows: int = ROWS, width: int = WIDTH) -> Layout:
    table = TableSettings(rows=rows, width=width, exact_below=16)
    statistics = Seen(
        {
            "user": counted(1000),
            "city": counted(500, "string"),
            "hour": counted(24),
            "level": known([key(text) for text in LEVELS], "string"),
            "tags": counted(300, "string"),
            "history": counted(1000),
            "user_city": counted(9000),
            "price": counted(4),
        },
        {"price": edged(1.0, 2.5, 10.0)},
    )
    return build_layout(feature_set(table), statistics, table)


def layout_by(method: str, multiplexed: bool) -> Layout:
    """The layout of any method: all vocabularies are known."""
    table = TableSettings(
        budget="300 kB", width=WIDTH, exact_below=16, method=method, multiplexed=multiplexed
    )
    users = [value % 2**64 for value in range(-5, 1000)]
    statistics = Seen(
        {
            "user": known(users),
            "city": known([key(f"city {i}") for i in range(500)], "string"),
            "hour": known(range(24)),
            "level": known([key(text) for text in LEVELS], "string"),
            "tags": known([key(f"tag{i}") for i in range(40)], "string"),
            "history": known(users),
            "user_city": known(range(1000)),
            "price": known(range(4)),
        },
        {"price": edged(1.0, 2.5, 10.0)},
    )
    return build_layout(feature_set(table), statistics, table)


def key(text: str) -> int:
    from features.hashing import key_of

    return key_of(text)


def vectors(rows: int, width: int, version: int) -> np.ndarray:
    """Rows that tell which version they are of."""
    rng = np.random.default_rng(version)
    return rng.normal(0, 0.05, (rows, width)).astype(np.float32)


def write_version(
    directory: Path, step: int, codec: str = "float32", *, rows: int = ROWS, width: int = WIDTH
) -> str:
    """Writes version `step` into a directory; returns its name."""
    values = vectors(rows, width, step)
    name = f"v-{step:010d}"
    source = Source(
        layout=layout(rows, width),
        codec=codec_named(codec)(width, values[:1024]),
        read_rows=lambda first, end: values[first:end],
        lineage=Lineage(run="run", job="0" * 64, step=step, checkpoint=f"{step:064x}"),
    )
    write_snapshot(directory, name, source)
    return name


def table_of(n: int, seed: int = 0, nulls: bool = True) -> pa.Table:
    """Rows as they stand in the data."""
    rng = np.random.default_rng(seed)

    def mask() -> np.ndarray:
        return rng.random(n) < 0.1 if nulls else np.zeros(n, bool)

    words = [f"tag{i}" for i in range(40)]
    tags = [
        None
        if nulls and rng.random() < 0.1
        else [
            None if nulls and rng.random() < 0.1 else words[rng.integers(40)]
            for _ in range(rng.integers(0, 5))
        ]
        for _ in range(n)
    ]
    history = [rng.integers(-5, 2000, rng.integers(0, 6)).tolist() for _ in range(n)]
    cities = [f"city {i}" for i in rng.integers(0, 500, n)]
    levels = [LEVELS[i % 3] if i < 3 else "unseen" for i in rng.integers(0, 4, n)]
    times = rng.integers(-(10**15), 2 * 10**15, n)
    return pa.table(
        {
            "user": pa.array(rng.integers(-(2**63), 2**63 - 1, n), mask=mask()),
            "city": pa.array(cities, mask=mask()),
            "time": pa.array(times, pa.timestamp("us", "UTC"), mask=mask()),
            "level": pa.array(levels, mask=mask()),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "history": pa.array(history, pa.list_(pa.int64())),
            "price": pa.array(rng.normal(3, 4, n), mask=mask()),
        }
    )
