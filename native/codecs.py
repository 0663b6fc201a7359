"""Kernels of the codecs: rows to bytes and back, and coded rows gathered out of a mapped table.

Letters: R rows of a table, n rows of a call, w values a row, b bytes of a coded row; M parts of a
product code. `native.codec_reference` draws the formats. Matrices have contiguous rows any distance
apart. Every function releases the GIL, checks row numbers before it writes anything (IndexError),
and gives the same bits for any number of threads and any instruction set.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from native import codec_reference
from native.arrays import matrix, vector

Kind = Literal["float32", "float16", "bfloat16", "int8", "int4", "int2", "float8", "binary", "pq"]
Values = NDArray[np.float32]
Raw = NDArray[np.uint8]
Rows = NDArray[np.int64]


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
    del threads
    return codec_reference.first_unfit(matrix(rows, np.float32, "rows"), limit)


def encode(kind: Kind, rows: Values, out: Raw, threads: int = 1) -> None:
    """Writes the coded rows [n, b] of float32 rows [n, w]; not for pq. Values must be finite."""
    del threads
    codec_reference.encode(
        kind, matrix(rows, np.float32, "rows"), matrix(out, np.uint8, "out", write=True)
    )


def decode(
    kind: Kind, raw: Raw, out: Values, threads: int = 1, codebook: Values | None = None
) -> None:
    """Writes the values [n, w] of coded rows [n, b]; pq needs its codebook [M, 256, w / M]."""
    del threads
    codec_reference.decode(
        kind,
        matrix(raw, np.uint8, "raw"),
        matrix(out, np.float32, "out", write=True),
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
    del threads
    codec_reference.gather_decode(
        kind,
        matrix(table, np.uint8, "table"),
        vector(rows, np.int64, "rows"),
        matrix(out, np.float32, "out", write=True),
        codebook,
    )


def gather_raw(table: Raw, rows: Rows, out: Raw, threads: int = 1) -> None:
    """Copies coded rows: out[i] = table[rows[i]]."""
    del threads
    codec_reference.gather_raw(
        matrix(table, np.uint8, "table"),
        vector(rows, np.int64, "rows"),
        matrix(out, np.uint8, "out", write=True),
    )


def encode_pq(codebook: Values, rows: Values, out: Raw, threads: int = 1) -> None:
    """Writes the nearest entries [n, M] of a codebook [M, 256, w / M], the first among equals."""
    del threads
    codec_reference.encode_pq(
        codebook, matrix(rows, np.float32, "rows"), matrix(out, np.uint8, "out", write=True)
    )


def affine(rows: Values, weights: Values, offset: Values, out: Values, threads: int = 1) -> None:
    """Writes offset[w] + rows[n, k] @ weights[k, w], summed from the first column to the last."""
    del threads
    codec_reference.affine(
        matrix(rows, np.float32, "rows"),
        matrix(weights, np.float32, "weights"),
        vector(offset, np.float32, "offset"),
        matrix(out, np.float32, "out", write=True),
    )
