"""The plain Python twins of the native functions: the same results, one value at a time.

Tests hold the fast functions to these; nothing else uses them. Each has the signature of its
native function without `threads`, which changes no result. Integers are Python's, cut to 64 bits;
floats are numpy float32 scalars, so that every operation rounds as in C++.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from native.distinct import Distinct
from native.hashing import GOLDEN, MASK, Keys, Nulls, Rows
from native.kernels import Bag, Optimizer, Table

_LANES = 16  # partial sums of a row's squares

_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


def mix64(x: int) -> int:
    """Returns mix64 of one number."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def mulhi64(a: int, b: int) -> int:
    """Returns the high 64 bits of a 128-bit product."""
    return (a * b) >> 64


def xxh64(data: bytes, seed: int = 0) -> int:
    """Returns the 64-bit xxHash of `data` (Yann Collet's specification)."""
    p1, p2, p3, p4, p5 = _PRIMES
    rest = data
    if len(data) >= 32:
        lanes = [(seed + p1 + p2) & MASK, (seed + p2) & MASK, seed & MASK, (seed - p1) & MASK]
        while len(rest) >= 32:
            for i in range(4):
                lanes[i] = _round(lanes[i], int.from_bytes(rest[8 * i : 8 * i + 8], "little"))
            rest = rest[32:]
        turns = zip(lanes, (1, 7, 12, 18), strict=True)
        acc = sum(_rotate(lane, bits) for lane, bits in turns) & MASK
        for lane in lanes:
            acc = ((acc ^ _round(0, lane)) * p1 + p4) & MASK
    else:
        acc = (seed + p5) & MASK
    acc = (acc + len(data)) & MASK
    while len(rest) >= 8:
        word = _round(0, int.from_bytes(rest[:8], "little"))
        acc = (_rotate(acc ^ word, 27) * p1 + p4) & MASK
        rest = rest[8:]
    if len(rest) >= 4:
        word = (int.from_bytes(rest[:4], "little") * p1) & MASK
        acc = (_rotate(acc ^ word, 23) * p2 + p3) & MASK
        rest = rest[4:]
    for byte in rest:
        acc = (_rotate(acc ^ ((byte * p5) & MASK), 11) * p1) & MASK
    acc = ((acc ^ (acc >> 33)) * p2) & MASK
    acc = ((acc ^ (acc >> 29)) * p3) & MASK
    return acc ^ (acc >> 32)


def hash_strings(offsets: Sequence[int], data: bytes, seed: int = 0) -> list[int]:
    """Returns xxh64 of each string."""
    ends = pairwise(offsets)
    return [xxh64(data[begin:end], seed) for begin, end in ends]


def salts(name: str, num_lookups: int, hash_seed: int) -> list[int]:
    """Returns the salts of a feature's lookups."""
    start = xxh64(name.encode(), hash_seed)
    return [mix64((start + (k + 1) * GOLDEN) & MASK) for k in range(num_lookups)]


def combine_keys(acc: Keys, keys: Keys, part: int) -> None:
    """Folds the keys of a cross's part into `acc`."""
    for i in range(len(acc)):
        acc[i] = mix64(((int(acc[i]) ^ int(keys[i])) + (part + 1) * GOLDEN) & MASK)


def hash_rows(
    keys: Keys,
    nulls: Nulls | None,
    feature: NDArray[np.int32],
    salts: Keys,
    null_salts: Keys,
    bases: Rows,
    sizes: Rows,
    out: Rows,
) -> None:
    """Writes the rows of hashed lookups."""
    for lane, f in enumerate(feature):
        for i in range(keys.shape[1]):
            null = nulls is not None and bool(nulls[f, i])
            key = int(null_salts[lane]) if null else int(keys[f, i]) ^ int(salts[lane])
            out[lane, i] = int(bases[lane]) + mulhi64(mix64(key), int(sizes[lane]))


def exact_rows(
    keys: Keys, nulls: Nulls | None, vocabulary: Keys, base: int, num_lookups: int, out: Rows
) -> None:
    """Writes the rows of a feature whose values own rows."""
    places = {int(key): place for place, key in enumerate(vocabulary)}
    for i, key in enumerate(keys):
        value = places.get(int(key), len(places))
        if nulls is not None and nulls[i]:
            value = len(places) + 1
        for k in range(num_lookups):
            out[k, i] = base + value * num_lookups + k


def derive(tag: str, seed: int, *parts: int) -> int:
    """Returns the number that stands for a tag, a seed and parts."""
    x = xxh64(tag.encode(), seed & MASK)
    for part in parts:
        x = mix64(((x ^ (part & MASK)) + GOLDEN) & MASK)
    return x


def permutation(n: int, key: int) -> list[int]:
    """Returns the permutation of 0 .. n - 1 that `key` stands for."""
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = mulhi64(mix64((key + (i + 1) * GOLDEN) & MASK), i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def permute_columns(
    columns: Sequence[NDArray[Any]], permutation: NDArray[np.uint32], out: NDArray[Any]
) -> None:
    """Writes each column in the permuted order."""
    for c, column in enumerate(columns):
        for i, place in enumerate(permutation):
            out[c, i] = column[place]


def fill_uniform(table: Table, key: int, scale: float, first_row: int = 0) -> None:
    """Writes initial values."""
    unit = np.float32(scale) * np.float32(2.0**-23)
    for r in range(table.shape[0]):
        row_key = mix64((key + (first_row + r + 1) * GOLDEN) & MASK)
        for j in range(table.shape[1]):
            h = mix64((row_key + (j + 1) * GOLDEN) & MASK)
            table[r, j] = np.float32((h >> 40) - 2**23) * unit


def gather(table: Table, rows: Rows, columns: Rows, out: Table) -> None:
    """Copies the row of each lookup to its columns."""
    width = table.shape[1]
    for lane, column in enumerate(columns):
        for b in range(rows.shape[1]):
            out[b, column : column + width] = table[rows[lane, b]]


def gather_bags(
    table: Table, rows: Rows, offsets: Rows, mean: bool, column: int, out: Table
) -> None:
    """Pools the rows of each bag within each lookup."""
    width = table.shape[1]
    for b in range(out.shape[0]):
        begin, end = int(offsets[b]), int(offsets[b + 1])
        for k in range(rows.shape[0]):
            pooled = np.zeros(width, np.float32)
            for i in range(begin, end):
                pooled += table[rows[k, i]]
            if mean and end > begin:
                pooled *= np.float32(1) / np.float32(end - begin)
            out[b, column + k * width : column + (k + 1) * width] = pooled


def update(
    optimizer: Optimizer,
    table: Table,
    states: tuple[Table, ...],
    rows: Rows,
    columns: Rows,
    bags: Sequence[Bag],
    grad: Table,
    learning_rate: float,
    eps: float = 1e-8,
    beta1: float = 0.9,
    beta2: float = 0.999,
    step: int = 1,
) -> int:
    """Applies one optimizer step and returns how many rows it touched."""
    sums = _gradients(table.shape[1], rows, columns, bags, grad)
    rate, small = np.float32(learning_rate), np.float32(eps)
    size = np.float32(0)
    if optimizer == "adam":
        size = np.float32(learning_rate * (1 - beta2**step) ** 0.5 / (1 - beta1**step))
    for row, g in sums.items():
        weight = table[row]
        if optimizer == "rowwise_adagrad":
            states[0][row] += _sum_of_squares(g) / np.float32(len(g))
            weight -= rate / (np.sqrt(states[0][row]) + small) * g
        elif optimizer == "adagrad":
            states[0][row] += g * g
            weight -= rate * g / (np.sqrt(states[0][row]) + small)
        elif optimizer == "adam":
            m, v = states[0][row], states[1][row]
            m += (g - m) * np.float32(1 - beta1)
            v += (g * g - v) * np.float32(1 - beta2)
            weight -= size * (m / (np.sqrt(v) + small))
        else:
            weight -= rate * g
    return len(sums)


def find_distinct(matrices: Sequence[Rows], bounds: Sequence[int]) -> Distinct:
    """Returns the distinct rows of a batch in rising order."""
    flat = np.concatenate([rows.reshape(-1) for rows in matrices]).tolist()
    rows = sorted(set(flat))
    owners = [max(k for k in range(len(bounds) - 1) if bounds[k] <= row) for row in rows]
    places = [rows.index(row) for row in flat]
    order = sorted(range(len(flat)), key=lambda entry: (places[entry], entry))
    starts = [sum(place < u for place in places) for u in range(len(rows) + 1)]
    return Distinct(
        np.array([row - bounds[k] for row, k in zip(rows, owners, strict=True)], np.int64),
        [owners.count(k) for k in range(len(bounds) - 1)],
        np.array(places, np.int64),
        np.array(order, np.uint32),
        np.array(starts, np.uint32),
    )


def sum_gradients(
    distinct: Distinct,
    rows: Rows,
    columns: Rows,
    bags: Sequence[Bag],
    grad: Table,
    outs: Sequence[Table],
    width: int,
) -> None:
    """Writes the summed gradient of each distinct row."""
    shaped = _split_places(distinct.places, [rows, *(bag[0] for bag in bags)])
    renumbered = [(own, *bag[1:]) for own, bag in zip(shaped[1:], bags, strict=True)]
    sums = _gradients(width, shaped[0], columns, renumbered, grad)
    place = 0
    for out in outs:
        for row in out:
            row[:] = sums[place]
            place += 1


def _split_places(places: Rows, matrices: Sequence[Rows]) -> list[Rows]:
    parts, first = [], 0
    for matrix in matrices:
        parts.append(places[first : first + matrix.size].reshape(matrix.shape))
        first += matrix.size
    return parts


def _gradients(
    width: int, rows: Rows, columns: Rows, bags: Sequence[Bag], grad: Table
) -> dict[int, Table]:
    sums: dict[int, Table] = {}

    def add(row: int, part: Table) -> None:
        if row in sums:
            sums[row] += part
        else:
            sums[row] = part.copy()

    for lane, column in enumerate(columns):
        for b in range(grad.shape[0]):
            add(int(rows[lane, b]), grad[b, column : column + width])
    for bag_rows, offsets, mean, first in bags:
        for k in range(bag_rows.shape[0]):
            column = first + k * width
            for b in range(grad.shape[0]):
                count = int(offsets[b + 1] - offsets[b])
                part = grad[b, column : column + width]
                if mean and count > 0:
                    part = part * (np.float32(1) / np.float32(count))
                for i in range(offsets[b], offsets[b + 1]):
                    add(int(bag_rows[k, i]), part)
    return sums


def _sum_of_squares(g: Table) -> np.float32:
    lanes = np.zeros(_LANES, np.float32)
    for start in range(0, len(g), _LANES):
        part = g[start : start + _LANES]
        lanes[: len(part)] += part * part
    half = _LANES // 2
    while half:
        lanes[:half] += lanes[half : 2 * half]
        half //= 2
    return np.float32(lanes[0])


def _round(acc: int, word: int) -> int:
    return (_rotate((acc + word * _PRIMES[1]) & MASK, 31) * _PRIMES[0]) & MASK


def _rotate(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (64 - bits))) & MASK
