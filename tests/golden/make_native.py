"""Writes order.json and init.json: seeded numbers, permutations and initial values, by the twins.

    python -m tests.golden.make_native

Both files are fixed: the order of a run's data and the tables of old checkpoints depend on them.
"""

import json
from pathlib import Path

import numpy as np
import xxhash

from native import reference

FOLDER = Path(__file__).parent

DERIVED = [
    ("init", 0, []),
    ("init", 1, []),
    ("init", 2**64 - 1, []),
    ("blocks", 0, [0]),
    ("blocks", 0, [1]),
    ("blocks", 7, [0]),
    ("rows", 0, [0, 0]),
    ("rows", 0, [0, 1]),
    ("rows", 7, [3, 2**40]),
    ("", 0, []),
    ("größe", 5, [2**64 - 1, 0]),
]
PERMUTATIONS = [(0, 0), (1, 5), (2, 1), (3, 2**63), (10, 3), (257, 4), (65536, 6)]
INITIAL = [
    (0, 0.05, 15, [0, 1, 2, 2**31, 2**40 + 3]),
    (1, 0.05, 4, [0, 999_999]),
    (2**64 - 1, 1.0, 33, [0]),
]


def derived():
    """Returns the cases of derive(tag, seed, parts...)."""
    return [
        {
            "tag": tag,
            "seed": str(seed),
            "parts": [str(part) for part in parts],
            "value": f"{reference.derive(tag, seed, *parts):016x}",
        }
        for tag, seed, parts in DERIVED
    ]


def permutations():
    """Returns the cases of permutation(n, key): both ends, and xxh64 of all (little-endian u32)."""
    cases = []
    for n, seed in PERMUTATIONS:
        key = reference.mix64(seed)
        order = reference.permutation(n, key)
        digest = xxhash.xxh64_intdigest(np.array(order, "<u4").tobytes())
        cases.append(
            {
                "n": n,
                "key": f"{key:016x}",
                "first": order[:12],
                "last": order[-4:],
                "xxh64": f"{digest:016x}",
            }
        )
    return cases


def initial():
    """Returns the cases of initial values: seed, scale, width, and rows of hexadecimal floats."""
    cases = []
    for seed, scale, width, rows in INITIAL:
        table = np.zeros((1, width), np.float32)
        values = {}
        for row in rows:
            reference.fill_uniform(table, reference.derive("init", seed), scale, row)
            values[str(row)] = [value.hex() for value in table[0].tolist()]
        cases.append({"seed": str(seed), "scale": scale, "width": width, "rows": values})
    return cases


def main():
    """Writes both files."""
    order = {"derive": derived(), "permutation": permutations()}
    (FOLDER / "order.json").write_text(json.dumps(order, indent=1, ensure_ascii=False) + "\n")
    (FOLDER / "init.json").write_text(json.dumps(initial(), indent=1) + "\n")


if __name__ == "__main__":
    main()
