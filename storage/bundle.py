"""A bundle that is open for reading: verified, mapped, never written again.

What is refused, by name: a file that is missing, cut, altered, not in the manifest, a link (a hard
one too: somebody could write through its other name), a fifo, a directory, a device.

`verify` says when contents are compared with the manifest:

    True      all of it now, by sha256; rows that are read are compared once more, by crc32
    "lazy"    by crc32, each MiB when it is first touched; opening reads only the headers
    False     never, for looking at what a bundle holds; names, sizes and headers are still checked
"""

import hashlib
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from features.errors import SnapshotError
from storage.digests import CRC_BYTES, decode_crcs, num_crcs
from storage.fsops import DISK, Disk
from storage.manifest import FileEntry, Manifest, PartEntry, TensorEntry, decode_manifest
from storage.members import DirectoryMembers, Members, Range
from storage.names import MANIFEST, TENSOR_SUFFIX
from storage.places import ObjectPath, Place
from storage.tensors import DTYPES, Layout, header_size, parse_header
from storage.writer import BundleWriter

__all__ = ["Bundle", "BundleWriter", "Verify", "open_bundle"]

Verify = bool | Literal["lazy"]
_COPY = "take it from a copy, or use another checkpoint or snapshot"


def open_bundle(
    path: Place,
    verify: Verify = True,
    expected_digest: str | None = None,
    *,
    threads: int | None = None,
    disk: Disk = DISK,
) -> "Bundle":
    """Opens the bundle at `path`; SnapshotError naming the file that is not as it was written.

    `expected_digest` is the sha256 its manifest must have, from the pointer that named it.
    """
    members = _members(path, disk)
    try:
        data = members.manifest()
        digest = hashlib.sha256(data).hexdigest()
        if expected_digest is not None and digest != expected_digest:
            raise SnapshotError(
                f'"{path / MANIFEST}" is not the manifest that was committed: its sha256 is'
                f" {digest[:12]}..., expected {expected_digest[:12]}...",
                _COPY,
            )
        manifest = decode_manifest(data, f'"{path / MANIFEST}"')
        members.check(manifest.files)
        if verify is True:
            members.check_contents(manifest.files, threads)
        return Bundle(members, manifest, digest, verify)
    except BaseException:
        members.close()
        raise


class Bundle:
    """What a bundle holds; arrays are read-only and stay valid after it is closed or deleted."""

    def __init__(self, members: Members, manifest: Manifest, digest: str, verify: Verify) -> None:
        """Use `open_bundle`."""
        self.manifest = manifest
        self.digest = digest
        self._members = members
        self._is_lazy = verify == "lazy"
        self._files = {entry.name: entry for entry in manifest.files}
        self._tensors = {entry.name: entry for entry in manifest.tensors}
        self._crcs = {} if verify is False else {f.name: decode_crcs(f.crc32) for f in self.files}
        self._touched = {name: bytearray(len(crcs)) for name, crcs in self._crcs.items()}
        self._expected = self._tensors_of_files()
        self._layouts: dict[tuple[str, str], Layout] = {}
        if members.reads_headers_ahead:
            for file in self._expected:
                self._read_layouts(file)

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self._members.path

    @property
    def path(self) -> Path:
        """The directory it is; only for a bundle in a file system."""
        assert isinstance(self.place, Path)  # noqa: S101
        return self.place

    @property
    def content(self) -> dict[str, Any]:
        """The writer's own object."""
        return self.manifest.content

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Its files, tensor files included."""
        return self.manifest.files

    @property
    def size_bytes(self) -> int:
        """Bytes of its files without the manifest."""
        return sum(entry.size for entry in self.files)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(sorted(self._tensors))

    def entry(self, name: str) -> TensorEntry:
        """Returns dtype, shape and parts of a tensor; SnapshotError if there is none."""
        entry = self._tensors.get(name)
        if entry is None:
            known = ", ".join(self.tensor_names[:20]) or "none"
            raise SnapshotError(
                f'"{self.place}" has no tensor "{name}"', f"tensors it has: {known}"
            )
        return entry

    def tensor(self, name: str) -> np.ndarray:
        """Returns a whole tensor, mapped.

        Parts are joined without a copy; only where rows do not add up to whole pages (no writer of
        ours cuts so unless rows are larger than 64 KiB) is it copied into memory.
        """
        entry = self.entry(name)
        layouts = [self._layout(part.file, name) for part in entry.parts]
        ranges = [
            (part.file, layout.offset, layout.size_bytes)
            for part, layout in zip(entry.parts, layouts, strict=True)
        ]
        if self._members.can_join(ranges):
            return self._array(ranges).view(layouts[0].dtype).reshape(entry.shape)
        joined = np.concatenate([array for _, array in self.parts(name)])
        joined.flags.writeable = False
        return joined

    def parts(self, name: str) -> list[tuple[int, np.ndarray]]:
        """Returns (first row, rows) of each part of a tensor, mapped without a copy."""
        arrays = []
        for part in self.entry(name).parts:
            layout = self._layout(part.file, name)
            data = self._array([(part.file, layout.offset, layout.size_bytes)])
            array = data.view(layout.dtype).reshape(layout.shape)
            arrays.append((part.first_row, array))
        return arrays

    def read_rows(
        self, name: str, first: int, end: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Reads rows [first, end) of a tensor into `out`, of any strides, or into a new array.

        Each MiB is compared with its crc32 the first time it is touched. Nothing is mapped, so a
        failing device is an error and not a killed process.
        """
        entry = self.entry(name)
        if not 0 <= first <= end <= entry.num_rows:
            raise SnapshotError(
                f'rows {first:,} to {end:,} of tensor "{name}" were asked for',
                f"it has {entry.num_rows:,} rows",
            )
        shape = (end - first, *entry.shape[1:])
        dtype = DTYPES[entry.dtype]
        if out is None:
            out = np.empty(shape, dtype=dtype)
        if out.shape != shape or out.dtype != dtype:
            raise SnapshotError(
                f'rows {first:,} to {end:,} of tensor "{name}" are {dtype} {shape}',
                f"they do not fit into {out.dtype} {out.shape}: was the run started with another"
                " table, tower or optimizer?",
            )
        for part in entry.parts:
            low = max(first, part.first_row)
            high = min(end, part.first_row + part.rows)
            if low < high:
                target = out[low - first : high - first]
                self._read_part(entry, part, low - part.first_row, target)
        return out

    def file(self, name: str) -> bytes:
        """Returns the bytes of a file that is no tensor file, compared with its sha256."""
        entry = self._files.get(name)
        if entry is None or name.endswith(TENSOR_SUFFIX):
            known = [f.name for f in self.files if not f.name.endswith(TENSOR_SUFFIX)]
            raise SnapshotError(
                f'"{self.place}" has no file "{name}"',
                f"files it has: {', '.join(known) or 'none'}",
            )
        data = bytearray(entry.size)
        with self._members.opened(name) as descriptor:
            self._members.read(descriptor, name, memoryview(data), 0)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise SnapshotError(f'"{self.place / name}" is damaged: its sha256 is another', _COPY)
        return bytes(data)

    def check_contents(self, turn: int = 0, turns: int = 1, threads: int | None = None) -> None:
        """Compares every `turns`-th file with its sha256, from the `turn`-th largest on."""
        ordered = sorted(self.files, key=lambda entry: (-entry.size, entry.name))
        self._members.check_contents(ordered[turn::turns], threads)

    def close(self) -> None:
        """Lets the directory go; arrays that were given out stay valid."""
        self._members.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tensors_of_files(self) -> dict[str, dict[str, tuple[np.dtype, tuple[int, ...]]]]:
        """Returns what each tensor file holds by the manifest."""
        expected: dict[str, dict[str, tuple[np.dtype, tuple[int, ...]]]] = {}
        for tensor in self.manifest.tensors:
            for part in tensor.parts:
                shape = tensor.part_shape(part)
                expected.setdefault(part.file, {})[tensor.name] = (DTYPES[tensor.dtype], shape)
        return expected

    def _layout(self, file: str, tensor: str) -> Layout:
        if (file, tensor) not in self._layouts:
            self._read_layouts(file)
        return self._layouts[file, tensor]

    def _read_layouts(self, file: str) -> None:
        where = f'"{self.place / file}"'
        found = self._read_header(file, where)
        tensors = {layout.name: (layout.dtype, layout.shape) for layout in found}
        if tensors != self._expected[file]:
            raise SnapshotError(f"{where} does not hold the tensors of the manifest", _COPY)
        self._layouts.update({(file, layout.name): layout for layout in found})

    def _read_header(self, file: str, where: str) -> list[Layout]:
        size = self._files[file].size
        with self._members.opened(file) as descriptor:
            prefix = bytearray(min(8, size))
            self._members.read(descriptor, file, memoryview(prefix), 0)
            header = bytearray(header_size(prefix, size, where))
            self._members.read(descriptor, file, memoryview(header), 0)
        return parse_header(bytes(header), size, where)

    def _array(self, ranges: Sequence[Range]) -> np.ndarray:
        """Returns the bytes of ranges one behind the other, mapped where the place allows it."""
        if self._is_lazy:
            for file, offset, size in ranges:
                self._check_range(file, offset, size)
        return self._members.array(ranges)

    def _check_range(self, file: str, offset: int, size: int) -> None:
        """Compares the untouched MiBs of a range with their crc32."""
        buffer = memoryview(bytearray(min(CRC_BYTES, self._files[file].size)))
        with self._members.opened(file) as descriptor:
            for block in range(offset // CRC_BYTES, num_crcs(offset + size)):
                if not self._touched[file][block]:
                    piece = buffer[: self._block_size(file, block)]
                    self._members.read(descriptor, file, piece, block * CRC_BYTES)
                    self._check_block(file, block, piece)

    def _read_part(self, entry: TensorEntry, part: PartEntry, first: int, out: np.ndarray) -> None:
        """Reads rows of a part from `first` on, a MiB at a time; rows may lie across two."""
        layout = self._layout(part.file, entry.name)
        row_bytes = entry.row_bytes
        row_values = math.prod(entry.shape[1:])
        begin = layout.offset + first * row_bytes
        end = begin + len(out) * row_bytes
        if begin == end:
            return
        scratch = bytearray(row_bytes + CRC_BYTES)
        view = memoryview(scratch)
        rows_done = held = 0  # rows in `out`; bytes of a row cut by the last block, at the front
        with self._members.opened(part.file) as descriptor:
            for block in range(begin // CRC_BYTES, num_crcs(end)):
                start = block * CRC_BYTES
                stop = start + self._block_size(part.file, block)
                must_check = part.file in self._crcs and not self._touched[part.file][block]
                low, high = (start, stop) if must_check else (max(start, begin), min(stop, end))
                piece = view[held : held + high - low]
                self._members.read(descriptor, part.file, piece, low)
                if must_check:
                    self._check_block(part.file, block, piece)
                # Only a first block has bytes before `begin`, and then nothing is held.
                front = max(begin - low, 0)
                length = held + min(high, end) - low - front
                num_rows, rest = divmod(length, row_bytes)
                rows = np.frombuffer(scratch, layout.dtype, num_rows * row_values, front)
                out[rows_done : rows_done + num_rows] = rows.reshape(num_rows, *entry.shape[1:])
                rows_done += num_rows
                tail = front + num_rows * row_bytes
                view[:rest] = view[tail : tail + rest]
                held = rest

    def _block_size(self, file: str, block: int) -> int:
        return min(CRC_BYTES, self._files[file].size - block * CRC_BYTES)

    def _check_block(self, file: str, block: int, data: memoryview) -> None:
        if zlib.crc32(data) != self._crcs[file][block]:
            raise SnapshotError(
                f'"{self.place / file}" is damaged: the crc32 of MiB {block} is not the one in the'
                " manifest",
                _COPY,
            )
        self._touched[file][block] = 1


def _members(path: Place, disk: Disk) -> Members:
    if isinstance(path, ObjectPath):
        # Loaded where it is needed: pyarrow's part for S3 takes a while to start.
        from storage.object_members import ObjectMembers

        return ObjectMembers(path)
    return DirectoryMembers(path, disk)
