"""Kernels of the codecs: rows to bytes and back, and coded rows gathered out of a mapped table.

Letters: R rows of a table, n rows of a call, w values a row, b bytes of a coded row; M parts of a
product code. `native.codec_reference` draws the formats. Matrices have contiguous rows any distance
apart. Every function releases the GIL, checks row numbers before it writes anything (IndexError),
and gives the same bits for any number of threads and any instruction set.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from native import _native
from native.arrays import matrix, vector

Kind = Literal["float32", "float16", "bfloat16", "int8", "int4", "int2", "float8", "binary", "pq"]
Values = NDArray[np.float32]
Raw = NDArray[np.uint8]
Rows = NDArray[np.int64]

_KINDS: dict[str, int] = {
    "float32": 0,
    "float16": 1,
    "bfloat16": 2,
    "int8": 3,
    "int4": 4,
    "int2": 5,
    "float8": 6,
    "binary": 7,
    "pq": 8,
}


def row_bytes(kind: Kind, width: int, parts: int = 1) -> int:
    """Returns the bytes of a coded row; `parts` are the planes of binary and the M of pq."""
    sizes = {
        "float32": 4 * width,
        "float16": 2 * width,
        "bfloat16": 2 * width,
        "int8": width + 8,
        "int4": -(-width // 2) + 4,
        "int2": -(-width // 4) + 4,
        "float8": width + 4,
        "binary": parts * (-(-width // 8) + 1) + 1,
        "pq": parts,
    }
    return sizes[kind]


def first_unfit(rows: Values, limit: float, threads: int = 1) -> int:
    """Returns the first row with a value that is not finite or beyond +-limit, or -1."""
    return _native.first_unfit(matrix(rows, np.float32, "rows"), limit, threads)


def encode(kind: Kind, rows: Values, out: Raw, threads: int = 1) -> None:
    """Writes the coded rows [n, b] of finite rows [n, w]; `encode_pq` is that of pq.

    The bytes a row of `out` has say how many planes binary writes.
    """
    _native.encode(
        _KINDS[kind],
        matrix(rows, np.float32, "rows"),
        matrix(out, np.uint8, "out", write=True),
        threads,
    )


def encode_pq(codebook: Values, rows: Values, out: Raw, threads: int = 1) -> None:
    """Writes the nearest entries [n, M] of a codebook [M, 256, w / M], the first among equals."""
    _native.encode_pq(
        codebook,
        matrix(rows, np.float32, "rows"),
        matrix(out, np.uint8, "out", write=True),
        threads,
    )


def decode(
    kind: Kind, raw: Raw, out: Values, threads: int = 1, codebook: Values | None = None
) -> None:
    """Writes the values [n, w] of coded rows [n, b]; pq needs its codebook [M, 256, w / M]."""
    _native.decode(
        _KINDS[kind],
        matrix(raw, np.uint8, "raw"),
        None,
        matrix(out, np.float32, "out", write=True),
        threads,
        codebook,
    )


def gather_decode(
    kind: Kind,
    table: Raw,
    rows: Rows,
    out: Values,
    threads: int = 1,
    codebook: Values | None = None,
) -> None:
    """Writes the values of coded rows: out[i] = decoded table[rows[i]]."""
    _native.decode(
        _KINDS[kind],
        matrix(table, np.uint8, "table"),
        vector(rows, np.int64, "rows"),
        matrix(out, np.float32, "out", write=True),
        threads,
        codebook,
    )


def gather_raw(table: Raw, rows: Rows, out: Raw, threads: int = 1) -> None:
    """Copies coded rows: out[i] = table[rows[i]]."""
    _native.gather_raw(
        matrix(table, np.uint8, "table"),
        vector(rows, np.int64, "rows"),
        matrix(out, np.uint8, "out", write=True),
        threads,
    )


def affine(rows: Values, weights: Values, offset: Values, out: Values, threads: int = 1) -> None:
    """Writes offset[w] + rows[n, k] @ weights[k, w], summed from the first column to the last."""
    _native.affine(
        matrix(rows, np.float32, "rows"),
        matrix(weights, np.float32, "weights"),
        vector(offset, np.float32, "offset"),
        matrix(out, np.float32, "out", write=True),
        threads,
    )
