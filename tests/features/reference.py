"""The hash "mux1" once more, slowly: plain Python integers and the xxhash package, from the page.

Nothing here is shared with what it is held against. `mix64_all` and `rows_all` are the same
formulas on arrays of Python integers (dtype object), for a million values at a time.
"""

import datetime

import numpy as np
import xxhash

M = 2**64 - 1
G = 0x9E3779B97F4A7C15
EPOCH = datetime.datetime(1970, 1, 1)


def mix64(x):
    x ^= x >> 30
    x = (x * 0xBF58476D1CE4E5B9) & M
    x ^= x >> 27
    x = (x * 0x94D049BB133111EB) & M
    return x ^ (x >> 31)


def salt(name, k, hash_seed):
    return mix64((xxhash.xxh64_intdigest(name.encode("utf-8"), hash_seed) + (k + 1) * G) & M)


def row(key, name, k, hash_seed, base, num_rows):
    """The row of a key; None is null."""
    if key is None:
        key, name = 0, name + "\0null"
    return base + ((mix64(key ^ salt(name, k, hash_seed)) * num_rows) >> 64)


def rows(key, name, num_lookups, hash_seed, base, num_rows):
    return [row(key, name, k, hash_seed, base, num_rows) for k in range(num_lookups)]


def key(value):
    """The key of an integer, boolean, string, binary, date, or None."""
    if value is None:
        return None
    if isinstance(value, str):
        return xxhash.xxh64_intdigest(value.encode("utf-8"), 0)
    if isinstance(value, bytes):
        return xxhash.xxh64_intdigest(value, 0)
    if isinstance(value, datetime.date):
        return (value.toordinal() - EPOCH.toordinal()) & M
    return int(value) & M


MICROSECONDS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}


def micros(ticks, unit):
    times, over = MICROSECONDS[unit]
    return ticks * times // over


def derived(ticks, unit, what):
    moment = EPOCH + datetime.timedelta(microseconds=micros(ticks, unit))
    return {"hour": moment.hour, "weekday": moment.weekday(), "day": moment.day}[what]


def cross(keys):
    """The key of a cross of part keys; None is null."""
    x = 0
    for i, part in enumerate(keys):
        part = xxhash.xxh64_intdigest(b"\0null", 0) if part is None else part
        x = mix64(((x ^ part) + (i + 1) * G) & M)
    return x


def mix64_all(x):
    x = x ^ (x >> 30)
    x = (x * 0xBF58476D1CE4E5B9) & M
    x = x ^ (x >> 27)
    x = (x * 0x94D049BB133111EB) & M
    return x ^ (x >> 31)


def rows_all(keys, name, k, hash_seed, base, num_rows):
    """The rows of many keys, given as a list of Python integers."""
    keys = np.array(keys, dtype=object)
    return base + ((mix64_all(keys ^ salt(name, k, hash_seed)) * num_rows) >> 64)
