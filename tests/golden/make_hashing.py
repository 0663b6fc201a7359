"""Writes hashing.json: values of every type, their keys and their rows, by the slow reference.

    python -m tests.golden.make_hashing

The file is fixed: tables on disk depend on it. A change means another hash, with another name.
"""

import json
from pathlib import Path

from tests.features import reference

PATH = Path(__file__).with_name("hashing.json")

INTEGERS = {
    "int8": [-128, -1, 0, 1, 127],
    "int16": [-(2**15), -300, 300, 2**15 - 1],
    "int32": [-(2**31), -70_000, 70_000, 2**31 - 1],
    "int64": [-(2**63), -(2**53) - 1, -5, 0, 1, 2, 3, 42, 2**32, 2**53 + 1, 2**63 - 1],
    "uint8": [0, 1, 255],
    "uint16": [0, 65_535],
    "uint32": [0, 2**31, 2**32 - 1],
    "uint64": [0, 7, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1],
    "bool": [0, 1],
}
TEXTS = [
    "",
    "a",
    "7",
    "-1",
    "JFK",
    "null",
    "user_000001",
    "exactly eight",
    "0123456",
    "01234567",
    "012345678901",
    "0123456789abcdef0123456789abcde",
    "0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0",
    "a\0b",
    "Łódź",
    "東京都",
    "Ünïcödé ñame",
    "🛒🧺",
    "\u202eright to left",
]
LONG = [["x", 65_536], ["é", 32_768], ["東", 21_845]]
BYTES = [b"", b"\0", b"\xff\xfe", b"a", bytes(range(256))]
DATES = ["1582-10-15", "1969-12-31", "1970-01-01", "1970-01-02", "2013-11-30", "2024-02-29"]
MOMENTS = {
    "s": [-(2**31), -1, 0, 1, 1_385_852_399, 253_402_300_799],
    "ms": [-1, 0, 999, 1_385_852_399_999],
    "us": [-(2**53), -1, 0, 1, 1_385_852_399_999_999],
    "ns": [-1_000_000_001, -1_001, -1_000, -999, -1, 0, 999, 1_000, 1_385_852_399_999_999_999],
}
# Rows of the region: one, small, around 2^32 where the arithmetic changes, and beyond.
REGIONS = [1, 5, 1_000, 2**32 - 1, 2**32, 2**32 + 1, 2**40]
NAMES = ["user_id", "item", "Größe", "a.b/c d"]


def vectors():
    """Every value under one name and region, the names and regions taken in turn."""
    for number, (kind, value, key) in enumerate(values()):
        yield vector(number, kind, value, key)
    # One value under every name, region, seed and number of lookups.
    number = 0
    for name in NAMES:
        for num_rows in REGIONS:
            for value in (42, None):
                yield vector(
                    number, "int64", None if value is None else str(value), value, name, num_rows
                )
                number += 1


def vector(number, kind, value, key, name=None, num_rows=None):
    name = NAMES[number % len(NAMES)] if name is None else name
    num_rows = REGIONS[number % len(REGIONS)] if num_rows is None else num_rows
    num_lookups = 1 + number % 4
    hash_seed = (0, 0, 1, 2**63 - 1)[number // 3 % 4]
    base = (0, 100, 2**33)[number % 3]
    return {
        "type": kind,
        "value": value,
        "feature": name,
        "hash_seed": hash_seed,
        "base": base,
        "region": num_rows,
        "key": None if key is None else f"{key:016x}",
        "rows": reference.rows(key, name, num_lookups, hash_seed, base, num_rows),
    }


def values():
    """(type, value as JSON, key) of every value."""
    for kind, numbers in INTEGERS.items():
        yield from ((kind, str(number), reference.key(number)) for number in numbers)
        yield kind, None, None
    for kind in ("string", "large_string", "string_view"):
        yield from ((kind, text, reference.key(text)) for text in TEXTS)
        yield kind, None, None
    for text, times in LONG:
        yield "string", {"repeat": text, "times": times}, reference.key(text * times)
    for kind in ("binary", "large_binary", "binary_view"):
        yield from ((kind, raw.hex(), reference.key(raw)) for raw in BYTES)
    yield from (
        ("fixed_size_binary[4]", raw.hex(), reference.key(raw)) for raw in (b"\0" * 4, b"abcd")
    )
    for kind in ("date32", "date64"):
        for text in DATES:
            yield kind, text, reference.key(reference.datetime.date.fromisoformat(text))
        yield kind, None, None
    for unit, ticks in MOMENTS.items():
        for zone in ("", ", UTC", ", America/New_York"):
            kind = f"timestamp[{unit}{zone}]"
            yield from ((kind, str(t), reference.key(reference.micros(t, unit))) for t in ticks)
        for what in ("hour", "weekday", "day"):
            kind = f"timestamp[{unit}] {what}"
            yield from (
                (kind, str(t), reference.key(reference.derived(t, unit, what))) for t in ticks
            )
    for parts in CROSSES:
        yield "cross", parts, reference.cross([reference.key(part) for part in parts])


CROSSES = [
    [1, 2],
    [2, 1],
    [0, 0],
    [None, 0],
    [0, None],
    [None, None],
    [-1, "a"],
    ["JFK", "LAX"],
    ["LAX", "JFK"],
    ["", "", ""],
    ["東京", -(2**63), None, True],
    [1, 2, 3, 4, 5, 6, 7, 8],
]


def main():
    """Writes the file."""
    rows = ",\n".join(json.dumps(one, ensure_ascii=True) for one in vectors())
    PATH.write_text('{"hash": "mux1", "vectors": [\n' + rows + "\n]}\n", encoding="ascii")


if __name__ == "__main__":
    main()
