"""The plain numpy twins of `native.codecs`: the same bytes and the same floats, slower.

They define the formats. Tests hold the kernels to them bit for bit; nothing else uses them. Every
operation is one IEEE rounding in the stated type, and no sum depends on a library's order.

A coded row, little-endian, w values:

    float32   w x f32
    float16   w x f16
    bfloat16  w x the upper half of f32
    int8      w x u8,   scale f32, offset f32    value = offset + scale * code
    int4      2 codes a byte, the first in the low bits;  scale f16, offset f16
    int2      4 codes a byte, the first in the low bits;  scale f16, offset f16
    float8    w x E4M3 (no infinities),  scale f32          value = scale * code
    pq        M x u8                                        M entries of a codebook side by side
    binary    1 + n planes of ceil(w / 8) bytes, n x u8 ratio, scale f16
              value = scale * (+-1 +- r1 +- r1 r2 ...), r = ratio / 255, + where the bit is set

Offset and code of int8, int4 and int2 follow the rows of FBGEMM's fused tables.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Raw = NDArray[np.uint8]
Wide = NDArray[np.float64]

_LARGEST_E4M3 = np.float32(448)


def first_unfit(rows: Rows, limit: float) -> int:
    """Returns the first row with a value that is not finite or beyond +-limit, or -1."""
    with np.errstate(invalid="ignore"):
        fits = (np.abs(rows) <= np.float32(limit)).all(axis=1)
    bad = np.flatnonzero(~fits)
    return int(bad[0]) if bad.size else -1


def encode(kind: str, rows: Rows, out: Raw) -> None:
    """Writes the coded rows; see `native.codecs.encode`."""
    _ENCODE[kind](rows, out)


def decode(kind: str, raw: Raw, out: Rows, codebook: Rows | None = None) -> None:
    """Writes the values of coded rows; see `native.codecs.decode`."""
    if kind == "pq":
        if codebook is None:
            raise ValueError("pq needs its codebook")
        _decode_pq(raw, out, codebook)
    else:
        _DECODE[kind](raw, out)


def encode_pq(codebook: Rows, rows: Rows, out: Raw) -> None:
    """Writes for each part of a row the number of the nearest entry, the first among equals."""
    parts, _, part_width = codebook.shape
    for m in range(parts):
        part = rows[:, m * part_width : (m + 1) * part_width]
        distance = np.zeros((len(rows), codebook.shape[1]), np.float32)
        for j in range(part_width):
            gap = part[:, j, None] - codebook[m, None, :, j]
            distance += gap * gap
        out[:, m] = distance.argmin(axis=1)


def affine(rows: Rows, matrix: Rows, offset: Rows, out: Rows) -> None:
    """Writes offset + rows @ matrix, term by term in the order of the rows' columns."""
    total = np.broadcast_to(offset, out.shape).copy()
    for k in range(len(matrix)):
        total += rows[:, k, None] * matrix[k]
    out[:] = total


def gather_raw(table: Raw, rows: NDArray[np.int64], out: Raw) -> None:
    """Copies coded rows: out[i] = table[rows[i]]."""
    out[:] = table[rows]


def gather_decode(
    kind: str, table: Raw, rows: NDArray[np.int64], out: Rows, codebook: Rows | None = None
) -> None:
    """Writes the values of table[rows[i]] into out[i]."""
    decode(kind, table[rows], out, codebook)


def _put(out: Raw, first: int, values: NDArray[Any]) -> None:
    """Writes the bytes of `values` [n, k] into columns from `first` on."""
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(out), -1)
    out[:, first : first + raw.shape[1]] = raw


def _take(raw: Raw, first: int, count: int, dtype: str) -> NDArray[Any]:
    """Reads `count` values [n, count] from the columns from `first` on."""
    size = count * np.dtype(dtype).itemsize
    return np.ascontiguousarray(raw[:, first : first + size]).view(dtype).reshape(len(raw), count)


def _encode_float32(rows: Rows, out: Raw) -> None:
    _put(out, 0, rows.astype("<f4"))


def _decode_float32(raw: Raw, out: Rows) -> None:
    out[:] = _take(raw, 0, out.shape[1], "<f4")


def _encode_float16(rows: Rows, out: Raw) -> None:
    _put(out, 0, rows.astype("<f2"))


def _decode_float16(raw: Raw, out: Rows) -> None:
    out[:] = _take(raw, 0, out.shape[1], "<f2")


def _encode_bfloat16(rows: Rows, out: Raw) -> None:
    bits = rows.view(np.uint32) if rows.flags.c_contiguous else rows.copy().view(np.uint32)
    _put(out, 0, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2"))


def _decode_bfloat16(raw: Raw, out: Rows) -> None:
    out[:] = (_take(raw, 0, out.shape[1], "<u2").astype(np.uint32) << 16).view(np.float32)


def _encode_int8(rows: Rows, out: Raw) -> None:
    # Adding zero turns -0 into 0: which of the two is the smallest would depend on the order.
    low = rows.min(axis=1, keepdims=True) + np.float32(0)
    span = rows.max(axis=1, keepdims=True).astype(np.float64) - low
    inverse = np.divide(255, span, out=np.zeros_like(span), where=span > 0)
    width = rows.shape[1]
    out[:, :width] = np.rint((rows.astype(np.float64) - low) * inverse).astype(np.uint8)
    _put(out, width, (span / 255).astype("<f4"))
    _put(out, width + 4, low.astype("<f4"))


def _decode_int8(raw: Raw, out: Rows) -> None:
    width = out.shape[1]
    scale, offset = _take(raw, width, 1, "<f4"), _take(raw, width + 4, 1, "<f4")
    out[:] = offset + scale * raw[:, :width].astype(np.float32)


def _encode_nibbles(rows: Rows, out: Raw, bits: int) -> None:
    levels, per_byte = (1 << bits) - 1, 8 // bits
    num_rows, width = rows.shape
    low = rows.min(axis=1, keepdims=True) + np.float32(0)
    offset = low.astype(np.float16)
    wide_offset = offset.astype(np.float64)
    step = (rows.max(axis=1, keepdims=True).astype(np.float64) - wide_offset) / levels
    scale = np.maximum(step, 0).astype(np.float32).astype(np.float16)
    wide_scale = scale.astype(np.float64)
    inverse = np.divide(1, wide_scale, out=np.zeros_like(wide_scale), where=wide_scale > 0)
    exact = (rows.astype(np.float64) - wide_offset) * inverse
    codes = np.zeros((num_rows, -(-width // per_byte) * per_byte), np.uint8)
    codes[:, :width] = np.rint(exact.clip(0, levels)).astype(np.uint8)
    packed = codes[:, ::per_byte].copy()
    for place in range(1, per_byte):
        packed |= codes[:, place::per_byte] << (bits * place)
    size = packed.shape[1]
    out[:, :size] = packed
    _put(out, size, scale.astype("<f2"))
    _put(out, size + 2, offset.astype("<f2"))


def _decode_nibbles(raw: Raw, out: Rows, bits: int) -> None:
    per_byte, width = 8 // bits, out.shape[1]
    size = -(-width // per_byte)
    scale = _take(raw, size, 1, "<f2").astype(np.float32)
    offset = _take(raw, size + 2, 1, "<f2").astype(np.float32)
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    codes = (raw[:, :size, None] >> shifts) & ((1 << bits) - 1)
    codes = codes.reshape(len(raw), size * per_byte)[:, :width]
    out[:] = offset + scale * codes.astype(np.float32)


def _encode_float8(rows: Rows, out: Raw) -> None:
    width = rows.shape[1]
    scale = np.abs(rows).max(axis=1, keepdims=True) / _LARGEST_E4M3
    value = rows / np.where(scale > 0, scale, np.float32(1))
    size = np.minimum(np.abs(value), _LARGEST_E4M3)
    bits = size.view(np.uint32)
    # Below 2^-6 codes count steps of 2^-9, which is the last place of a float near 2^14.
    small = (size + np.float32(16384)).view(np.uint32) - np.float32(16384).view(np.uint32)
    normal = (bits - (120 << 23) + 0x7FFFF + ((bits >> 20) & 1)) >> 20
    code = np.where(size < np.float32(2**-6), small, normal).astype(np.uint8)
    out[:, :width] = code | np.where(np.signbit(value), 0x80, 0).astype(np.uint8)
    _put(out, width, scale.astype("<f4"))


def _decode_float8(raw: Raw, out: Rows) -> None:
    width = out.shape[1]
    code = raw[:, :width].astype(np.uint32)
    value = ((code & 0x7F) << 20).view(np.float32) * np.float32(2**120)
    signed = np.where(code & 0x80, -value, value)
    out[:] = signed * _take(raw, width, 1, "<f4")


def _decode_pq(raw: Raw, out: Rows, codebook: Rows) -> None:
    parts, _, part_width = codebook.shape
    for m in range(parts):
        out[:, m * part_width : (m + 1) * part_width] = codebook[m][raw[:, m]]


def binary_planes(width: int, row_bytes: int) -> int:
    """Returns the planes of a binary row of so many bytes, the first among them."""
    return (row_bytes - 1) // (-(-width // 8) + 1)


def _encode_binary(rows: Rows, out: Raw) -> None:
    num_rows, width = rows.shape
    planes, size = binary_planes(width, out.shape[1]), -(-width // 8)
    rest = rows.astype(np.float64)
    weight = _mean(np.abs(rest))
    norm = np.sqrt(_mean(rest * rest))
    value, ratios = np.zeros((num_rows, width)), np.zeros((num_rows, planes - 1), np.uint8)
    factor = np.ones((num_rows, 1))
    for plane in range(planes):
        if plane:
            fraction = np.divide(
                _mean(np.abs(rest)), weight, out=np.zeros_like(weight), where=weight > 0
            )
            ratio = np.rint(fraction * 255).clip(0, 255)
            ratios[:, plane - 1] = ratio[:, 0].astype(np.uint8)
            weight = weight * (ratio / 255)
            factor = factor * (ratio / 255)
        sign = np.where(rest >= 0, 1.0, -1.0)
        out[:, plane * size : (plane + 1) * size] = np.packbits(
            rest >= 0, axis=1, bitorder="little"
        )
        rest = rest - sign * weight
        value += sign * factor
    length = np.sqrt(_mean(value * value))
    scale = np.divide(norm, length, out=np.zeros_like(norm), where=length > 0)
    out[:, planes * size : planes * size + planes - 1] = ratios
    # No larger than the largest value of the row, which decodes to a sum of at least 1.
    _put(out, planes * size + planes - 1, scale.astype(np.float32).astype("<f2"))


def _mean(values: Wide) -> Wide:
    """Means over columns [n, 1], added from the first to the last."""
    total = np.zeros((len(values), 1))
    for j in range(values.shape[1]):
        total[:, 0] += values[:, j]
    return total / values.shape[1]


def _decode_binary(raw: Raw, out: Rows) -> None:
    width = out.shape[1]
    planes, size = binary_planes(width, raw.shape[1]), -(-width // 8)
    ratios = raw[:, planes * size : planes * size + planes - 1].astype(np.float32) / np.float32(255)
    scale = _take(raw, planes * size + planes - 1, 1, "<f2").astype(np.float32)
    total, weight = np.zeros((len(raw), width), np.float32), np.ones((len(raw), 1), np.float32)
    for plane in range(planes):
        if plane:
            weight = weight * ratios[:, plane - 1, None]
        packed = np.ascontiguousarray(raw[:, plane * size : (plane + 1) * size])
        bits = np.unpackbits(packed, axis=1, count=width, bitorder="little")
        total += np.where(bits, weight, -weight)
    out[:] = total * scale


_ENCODE = {
    "float32": _encode_float32,
    "float16": _encode_float16,
    "bfloat16": _encode_bfloat16,
    "int8": _encode_int8,
    "int4": lambda rows, out: _encode_nibbles(rows, out, 4),
    "int2": lambda rows, out: _encode_nibbles(rows, out, 2),
    "float8": _encode_float8,
    "binary": _encode_binary,
}
_DECODE = {
    "float32": _decode_float32,
    "float16": _decode_float16,
    "bfloat16": _decode_bfloat16,
    "int8": _decode_int8,
    "int4": lambda raw, out: _decode_nibbles(raw, out, 4),
    "int2": lambda raw, out: _decode_nibbles(raw, out, 2),
    "float8": _decode_float8,
    "binary": _decode_binary,
}
