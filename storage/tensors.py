"""A tensor file: named arrays behind a small header, in the safetensors layout.

    size      u64 LE          bytes of the header
    header    JSON            {"name": {"data_offsets": [0, 48], "dtype": "F32", "shape": [3, 4]}}
                              and spaces, so that the data begins at a multiple of 4096 bytes
    data      little-endian   the arrays without gaps, by falling item size, then by name

Refused when read: a header of more than 1 MiB, anything in it but names, dtypes of the list below,
shapes and offsets; overlaps and gaps; a size that is not the file's; data off its alignment.
Everything is checked before anything is allocated by what the header says.

Source: the format of huggingface/safetensors, whose reader takes these files too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from features.errors import SnapshotError
from storage import canonical
from storage.names import is_name

ALIGNMENT = 4096
MAX_HEADER_BYTES = 2**20
MAX_PART_BYTES = 256 * 2**20
BLOCK_BYTES = 2**20
MAX_DIMS = 8
MAX_TENSOR_BYTES = 2**50

DTYPES = {
    "BOOL": np.dtype("?"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_DAMAGED = "the file is damaged: take it from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one array lies in a tensor file: bytes from `offset`, counted from the file's start."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def dtype_name(dtype: np.dtype, tensor: str) -> str:
    """Returns the format's name of a dtype of any byte order; SnapshotError if it has none."""
    name = _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise SnapshotError(
            f'tensor "{tensor}" has the dtype {dtype}, which no bundle holds',
            f"convert it to one of {', '.join(sorted(str(known) for known in _NAMES))}",
        )
    return name


def is_shape(shape: Sequence[int], itemsize: int) -> bool:
    """Whether an array of that shape could exist; an axis of 0 excuses no others."""
    return (
        len(shape) <= MAX_DIMS
        and math.prod(max(axis, 1) for axis in shape) * itemsize <= MAX_TENSOR_BYTES
    )


def rows_of(shape: Sequence[int]) -> int:
    """Returns the number of rows of a shape; a single number counts as one row."""
    return shape[0] if shape else 1


def plan_parts(
    shape: Sequence[int], itemsize: int, part_bytes: int, tensor: str
) -> list[tuple[int, int]]:
    """Returns (first row, rows) of the parts a tensor is cut into, each at most `part_bytes`.

    Parts but the last are a multiple of 4096 bytes where that fits, so that a reader can map them
    one behind the other as one array.
    """
    num_rows = rows_of(shape)
    row_bytes = math.prod(shape[1:]) * itemsize
    if row_bytes > part_bytes:
        raise SnapshotError(
            f'a row of tensor "{tensor}" has {row_bytes:,} bytes; a part holds {part_bytes:,}',
            "reshape it so that its first axis is the long one",
        )
    if num_rows * row_bytes <= part_bytes:
        return [(0, num_rows)]
    rows = part_bytes // row_bytes
    page_rows = ALIGNMENT // math.gcd(row_bytes, ALIGNMENT)
    if rows >= page_rows:
        rows -= rows % page_rows
    return [(first, min(rows, num_rows - first)) for first in range(0, num_rows, rows)]


def file_order(arrays: dict[str, np.ndarray]) -> list[str]:
    """Returns the names of the arrays of one file in the order of their data."""
    return sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))


def encode_header(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns size and header of the file that holds these arrays in `file_order`."""
    entries = {}
    offset = 0
    for name in file_order(arrays):
        array = arrays[name]
        entries[name] = {
            "data_offsets": [offset, offset + array.nbytes],
            "dtype": dtype_name(array.dtype, name),
            "shape": list(array.shape),
        }
        offset += array.nbytes
    text = canonical.encode(entries)
    padding = -(8 + len(text)) % ALIGNMENT
    return (len(text) + padding).to_bytes(8, "little") + text + b" " * padding


def header_size(prefix: bytes | bytearray, file_size: int, where: str) -> int:
    """Returns the bytes of size and header together, from the first eight of a file."""
    size = int.from_bytes(prefix[:8], "little")
    if len(prefix) < 8 or 8 + size > file_size:
        raise SnapshotError(f"{where} is too short to be a tensor file", _DAMAGED)
    if size > MAX_HEADER_BYTES:
        raise SnapshotError(f"{where} claims a header of {size:,} bytes", _DAMAGED)
    if (8 + size) % ALIGNMENT:
        raise SnapshotError(f"{where}: the data does not begin at a multiple of 4096", _DAMAGED)
    return 8 + size


def parse_header(data: bytes, file_size: int, where: str) -> list[Layout]:
    """Returns the arrays of a tensor file, in the order of their data, from its size and header."""
    start = header_size(data, file_size, where)
    entries = canonical.decode(data[8:start].rstrip(b" "), f"{where}: the header")
    if not isinstance(entries, dict):
        raise SnapshotError(f"{where}: the header is no object", _DAMAGED)
    layouts = [_parse_entry(name, entry, start, where) for name, entry in entries.items()]
    # Empty arrays share an offset with their successor, so the end decides.
    layouts.sort(key=lambda layout: (layout.offset, layout.offset + layout.size_bytes))
    end = start
    for layout in layouts:
        if layout.offset != end:
            fault = "overlaps another" if layout.offset < end else "leaves a gap before it"
            raise SnapshotError(f'{where}: tensor "{layout.name}" {fault}', _DAMAGED)
        end += layout.size_bytes
    if end != file_size:
        raise SnapshotError(f"{where}: the data ends at {end:,} of {file_size:,} bytes", _DAMAGED)
    return layouts


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an array of any strides in pieces of at most 1 MiB, in the order of its values."""
    if array.ndim == 0 or array.nbytes <= BLOCK_BYTES:
        yield array
        return
    row_bytes = array.nbytes // len(array)
    if row_bytes > BLOCK_BYTES:
        for row in array:
            yield from blocks(row)
        return
    rows = BLOCK_BYTES // row_bytes
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def serialized(arrays: dict[str, np.ndarray]) -> Iterator[memoryview]:
    """Yields the bytes of the file that holds these arrays; each is valid until the next.

    Every block is copied before it is handed on: what is hashed and what is written are the same
    bytes even if somebody changes the array meanwhile.
    """
    yield memoryview(encode_header(arrays))
    scratch = np.empty(BLOCK_BYTES, dtype=np.uint8)
    for name in file_order(arrays):
        for block in blocks(arrays[name]):
            if block.nbytes == 0:
                continue
            flat = scratch[: block.nbytes]
            little = block.dtype.newbyteorder("<")
            np.copyto(flat.view(little).reshape(block.shape), block)
            yield flat.data


def _parse_entry(name: str, entry: object, start: int, where: str) -> Layout:
    place = f"{where}: tensor {name[:80]!r}"
    if not is_name("tensor", name):
        raise SnapshotError(f"{place} has a name that is not allowed", _DAMAGED)
    if not isinstance(entry, dict) or entry.keys() != {"data_offsets", "dtype", "shape"}:
        raise SnapshotError(f"{place} needs data_offsets, dtype and shape, nothing else", _DAMAGED)
    shape = entry["shape"]
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise SnapshotError(f"{place} has a dtype that is not known", _DAMAGED)
    if not _are_counts(shape) or not is_shape(shape, dtype.itemsize):
        raise SnapshotError(f"{place} has a shape that is not allowed", _DAMAGED)
    offsets = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise SnapshotError(f"{place} has offsets that do not fit its shape", _DAMAGED)
    if offsets[0] % dtype.itemsize:
        raise SnapshotError(f"{place} is not aligned", _DAMAGED)
    return Layout(name=name, dtype=dtype, shape=tuple(shape), offset=start + offsets[0])


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= MAX_TENSOR_BYTES for value in values
    )
