"""A small table with every kind of feature, and snapshots of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from features.batches import KeyColumn
from features.routing import Layout, Placement, Region
from features.schema import Feature
from storage.codecs.plain import Float32Codec
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, Written, write_snapshot

WIDTH = 4
VOCABULARY = np.array([3, 17, 2**63 + 5], np.uint64)
EDGES = (-1.0, 0.5, 3.0)
LINEAGE = Lineage(run="0123456789abcdef", job="a" * 64, step=12, checkpoint="b" * 64)


def every_kind(rows: int = 997) -> Layout:
    """Categorical of both classes, exact, list, sequence, cross and bucketized features; `rows` are
    those of the shared region."""
    features = [
        Feature(name="user", kind="categorical", columns=("user",), num_lookups=2),
        Feature(name="city", kind="categorical", columns=("city",), num_lookups=3),
        Feature(name="day", kind="categorical", columns=("day",), num_lookups=2),
        Feature(name="tags", kind="list", columns=("tags",), num_lookups=2, pooling="sum"),
        Feature(
            name="seen", kind="sequence", columns=("seen",), num_lookups=1, pooling="last",
            max_length=5,
        ),
        Feature(
            name="user_city", kind="cross", columns=("user", "city"), parts=("user", "city"),
            num_lookups=2,
        ),
        Feature(name="age", kind="bucketized", columns=("age",), num_lookups=1, buckets=4),
    ]  # fmt: skip
    classes = {"user": "int", "city": "string", "day": "int", "tags": "string", "seen": "int"}
    exact = (len(VOCABULARY) + 2) * 2
    return Layout.assemble(
        width=WIDTH,
        hash_seed=7,
        regions=[
            Region(name="shared", kind="shared", base=0, rows=rows, width=WIDTH),
            Region(name="day", kind="exact", base=rows, rows=exact, width=WIDTH),
        ],
        placements=[
            Placement(
                feature=_salted(feature),
                region="day" if feature.name == "day" else "shared",
                key_class=classes.get(feature.name),
                edges=EDGES if feature.kind == "bucketized" else None,
            )
            for feature in features
        ],
        vocabularies={"day": VOCABULARY},
    )


def table_of(layout: Layout, seed: int = 0) -> np.ndarray:
    """Random rows float32[R, width]."""
    return np.random.default_rng(seed).normal(0, 0.1, (layout.rows, layout.width)).astype("f4")


def source_of(table: np.ndarray, layout: Layout | None = None, codec=None, **options) -> Source:
    """What a snapshot of a table is made of."""
    return Source(
        layout=layout or every_kind(),
        codec=codec or Float32Codec(width=table.shape[1]),
        read_rows=lambda first, end: table[first:end],
        lineage=options.pop("lineage", LINEAGE),
        **options,
    )


def write(parent: Path, table: np.ndarray, name: str = "v-0000000012", **options) -> Written:
    """Writes a snapshot of a table of `every_kind`."""
    made = {key: options.pop(key) for key in ("codec", "files") if key in options}
    return write_snapshot(parent, name, source_of(table, **made), **options)


def some_keys(layout: Layout, num_samples: int = 50, seed: int = 0) -> dict[str, KeyColumn]:
    """Keys of every feature, some null, some lists empty."""
    rng = np.random.default_rng(seed)
    columns = {}
    for route in layout.routes:
        offsets = None
        count = num_samples
        if route.feature.is_bag:
            offsets = np.append(0, np.cumsum(rng.integers(0, 4, num_samples)))
            count = int(offsets[-1])
        keys = rng.integers(0, 2**63, count).astype(np.uint64)
        if route.vocabulary is not None:
            keys[::2] = rng.choice(route.vocabulary, len(keys[::2]))
        nulls = None
        if not route.feature.is_bag:
            nulls = (rng.random(count) < 0.1).astype(np.uint8)
            keys[nulls == 1] = 0
        columns[route.name] = KeyColumn(keys, nulls, offsets)
    return columns


def _salted(feature: Feature) -> Feature:
    return replace(feature, salt_name=feature.name)
