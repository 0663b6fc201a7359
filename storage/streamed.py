"""A tensor that is written while it is made, block by block: it never lies in memory whole."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from storage.digests import CRC_BYTES
from storage.manifest import PartEntry, Parts, TensorEntry, check_limits
from storage.names import TENSOR_SUFFIX, slug
from storage.parts import PartsWriter
from storage.tensors import MAX_PART_BYTES, dtype_name, encode_header, plan_parts

# blocks(first, end) makes the rows [first, end) in arrays one behind the other.
Blocks = Callable[[int, int], Iterable[np.ndarray]]


def write_streamed(
    writer: PartsWriter,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    blocks: Blocks,
    part_bytes: int = MAX_PART_BYTES,
) -> Parts:
    """Writes a tensor into files of its own beside those of `writer`, for `BundleWriter.seal`.

    `blocks` is asked for the parts in order, each once.
    """
    files, parts = [], []
    planned = plan_parts(shape, dtype.itemsize, part_bytes, name)
    # A crc32 of each MiB, in base64, bounds what a manifest can describe.
    crc_bytes = sum(shape[:1]) * _row_bytes(shape, dtype) // CRC_BYTES * 4 * 4 // 3
    check_limits(crc_bytes, 2 * len(planned), f'the manifest of "{writer.directory.name}"')
    for number, (first, rows) in enumerate(planned):
        file = f"{slug(name)}-{number:05d}{TENSOR_SUFFIX}"
        # Zero strides: an array of this shape and size that takes no memory.
        like = np.broadcast_to(np.zeros((), dtype), (rows, *shape[1:]))
        header = encode_header({name: like})
        chunks = partial(_chunks, header, blocks, first, first + rows)
        files.append(writer.write(file, chunks))
        parts.append(PartEntry(file=file, first_row=first, rows=rows))
    entry = TensorEntry(name=name, dtype=dtype_name(dtype, name), shape=shape, parts=tuple(parts))
    return Parts(files=tuple(files), tensors=(entry,))


def _chunks(header: bytes, blocks: Blocks, first: int, end: int) -> Iterator[memoryview]:
    yield memoryview(header)
    for block in blocks(first, end):
        if block.nbytes:
            yield np.ascontiguousarray(block).view(np.uint8).reshape(-1).data


def _row_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
