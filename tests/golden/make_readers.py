"""Writes readers.json: what values read in a small table of every method, and what is made of it.

    python -m tests.golden.make_readers

The file is fixed: trained tables are read as it says. The table holds the initial values of seed 0,
from their plain twin (`native.reference`); rows and vectors come from the numpy path of the
layouts, whose formulas `tests/features/test_readers.py` and `tests/trainer/test_popular.py` hold
against plain Python.
"""

import json
from pathlib import Path

import numpy as np

from features.batches import KeyColumn
from features.hashing import key_of
from features.heavy import HeavyHitters
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeatureSettings, FeaturesSettings, TableSettings
from features.statistics import CategoricalStatistics
from native import reference
from storage.vectors import combined
from trainer.representations.registry import build_layout

FILE = Path(__file__).parent / "readers.json"
INIT_SCALE = 0.05
# The last word is one that training has not seen, the last number too.
USERS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 2**63 + 9]
WORDS = ["", "a", "b", "größe", "long " * 20]
VALUES = {
    "user": [1, 8, 2**63 + 9, 77, None],
    "friend": [8, None],
    "item": [key_of("a"), key_of("größe"), key_of("unseen"), None],
    "gender": [0, 1, 2, None],
}
TABLES = {
    "unified": {"method": "unified", "lookups": 2},
    "unified, per feature": {"method": "unified", "lookups": 2, "multiplexed": False},
    "hash": {"method": "hash"},
    "hash_embedding": {"method": "hash_embedding", "lookups": 2},
    "hash_embedding, per feature": {
        "method": "hash_embedding",
        "lookups": 2,
        "multiplexed": False,
    },
    "pq": {"method": "pq", "lookups": 3, "width": 2},
    "qr": {"method": "qr", "lookups": 2},
    "hashednet": {"method": "hashednet", "lookups": 1},
    "robe": {"method": "robe", "lookups": 1, "block": 4},
    "dhe": {"method": "dhe"},
    "tt": {"method": "tt", "lookups": 2},
    "exact": {"method": "exact", "lookups": 2},
    "hot rows": {"method": "unified", "lookups": 2, "hot_rows": 0.25},
    "frequent values": {"method": "unified", "lookups": 3, "frequent_values": 3},
    "hot rows and frequent values": {
        "method": "pq",
        "lookups": 2,
        "hot_rows": 0.1,
        "frequent_values": 5,
    },
}


class Seen:
    """What training saw of the features."""

    def __init__(self) -> None:
        self.categorical = {
            "user": _seen(USERS, "int"),
            "friend": _seen(USERS[:4], "int"),
            "item": _seen([key_of(word) for word in WORDS], "string"),
            "gender": _seen([0, 1], "int"),
        }
        self.dense = {}


def _seen(values, key_class):
    """Statistics of a feature whose values were seen more often the earlier they stand."""
    keys = np.array(sorted(values), np.uint64)
    counts = np.array([100 - 7 * values.index(int(key)) for key in keys])
    return CategoricalStatistics(
        cardinality=len(keys),
        key_class=key_class,
        rows=1000,
        null_count=0,
        num_values=1000,
        vocabulary=keys,
        popular=HeavyHitters(keys=keys, counts=counts, error=0),
    )


def layout_of(table):
    """Returns the layout of one of TABLES."""
    settings = TableSettings(
        **{"budget": "4 kB", "width": 4, "exact_below": 3, "init_scale": INIT_SCALE, **table}
    )
    features = FeatureSet.build(
        None,
        FeaturesSettings(categorical=["user", "friend", "item", "gender"]),
        {"friend": FeatureSettings(shares="user")},
        settings,
    )
    return build_layout(features, Seen(), settings)


def column(values):
    """Returns the keys of values, null among them."""
    return KeyColumn(
        np.array([0 if value is None else value for value in values], np.uint64),
        np.array([value is None for value in values], np.uint8),
    )


def reading(layout: Layout, name, values):
    """Returns the rows [n, c] and the vectors [n, D] of values."""
    table = np.empty((layout.rows, layout.width), np.float32)
    reference.fill_uniform(table, reference.derive("init", 0), INIT_SCALE)
    read = column(values)
    rows = layout.rows_of(name, read)
    reader = layout[name].reader
    if reader is None:
        vectors = np.concatenate([table[lookup] for lookup in rows], axis=1)
    else:
        vectors = combined(reader, read, lambda numbers: table[numbers])
    return rows.T.tolist(), vectors.astype("<f4")


def case(table):
    """Returns what is pinned of one table."""
    layout = layout_of(table)
    readings = {}
    for name, values in VALUES.items():
        rows, vectors = reading(layout, name, values)
        readings[name] = {
            "keys": [None if value is None else f"{value:016x}" for value in values],
            "rows": rows,
            "vectors": [vector.tobytes().hex() for vector in vectors],
        }
    return {
        "layout": layout.to_json(),
        "vocabularies": {
            name: [f"{key:016x}" for key in keys.tolist()]
            for name, keys in layout.vocabularies().items()
        },
        "readings": readings,
    }


def main():
    """Writes the file, a table a line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(case(table), separators=(',', ':'))}"
        for name, table in TABLES.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
