"""The manifest: what a bundle holds, with checksums, in one small JSON document.

    format           "muxtable-bundle"
    format_version   1
    kind             "checkpoint" or "snapshot"
    attempt          token of the process that wrote it
    parent           sha256 of the manifest it followed, or null
    files            [{name, size, sha256, crc32}]          every file but the manifest, by name
    tensors          [{name, dtype, shape, parts: [{file, first_row, rows}]}]        by name
    content          the writer's own object
    checksum         sha256 of the canonical JSON of all the rest

Canonical JSON (`storage.canonical`), at most 1 MiB and 10,000 entries (files, tensors and parts).
The digest of a bundle is the sha256 of the manifest's bytes. Everything is checked before a file
is opened by what it says.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from features.errors import SnapshotError
from storage import canonical
from storage.digests import decode_crcs, num_crcs
from storage.names import MANIFEST, TENSOR_SUFFIX, is_name
from storage.tensors import DTYPES, MAX_TENSOR_BYTES, is_shape, rows_of

FORMAT: Literal["muxtable-bundle"] = "muxtable-bundle"
FORMAT_VERSION: Literal[1] = 1
MAX_MANIFEST_BYTES = 2**20
MAX_ENTRIES = 10_000

Kind = Literal["checkpoint", "snapshot"]
Count = Annotated[int, Field(ge=0, le=MAX_TENSOR_BYTES)]

_DAMAGED = "the bundle is damaged: take it from a copy, or use another one"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileEntry(_Model):
    """One file: its size and its checksums."""

    name: str
    size: Count
    sha256: str
    crc32: str
    """One crc32 for each MiB: little-endian u32 in base64."""


class PartEntry(_Model):
    """The rows of a tensor that lie in one file."""

    file: str
    first_row: Count
    rows: Count


class TensorEntry(_Model):
    """One array, cut by rows."""

    name: str
    dtype: str
    shape: tuple[Count, ...]
    parts: tuple[PartEntry, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all parts together."""
        return rows_of(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on disk."""
        return math.prod(self.shape[1:]) * DTYPES[self.dtype].itemsize

    def part_shape(self, part: PartEntry) -> tuple[int, ...]:
        """Returns the shape of a part."""
        return (part.rows, *self.shape[1:]) if self.shape else ()


class Parts(_Model):
    """What one of several processes wrote of a bundle: each tensor's parts are those it has."""

    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]


class Manifest(_Model):
    """What a bundle holds."""

    format: Literal["muxtable-bundle"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    kind: Kind
    attempt: str
    parent: str | None
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    content: dict[str, JsonValue]

    def file(self, name: str) -> FileEntry | None:
        """Returns the entry of a file, or None."""
        return next((entry for entry in self.files if entry.name == name), None)

    def tensor(self, name: str) -> TensorEntry | None:
        """Returns the entry of a tensor, or None."""
        return next((entry for entry in self.tensors if entry.name == name), None)


def encode_manifest(manifest: Manifest, where: str) -> bytes:
    """Returns the bytes of manifest.json; SnapshotError where it would be too large."""
    document = manifest.model_dump(mode="json")
    document["checksum"] = _checksum(document)
    data = canonical.encode(document)
    check_limits(len(data), _num_entries(manifest), where)
    return data


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Returns the manifest of bytes nobody vouches for; SnapshotError naming what is wrong."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise SnapshotError(f"{where} has more than {MAX_MANIFEST_BYTES:,} bytes", _DAMAGED)
    document = canonical.decode(data, where)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SnapshotError(f"{where} is no manifest of muxtable", "check the path")
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise SnapshotError(
            f"{where} has format version {str(version)[:20]}; this muxtable reads {FORMAT_VERSION}",
            "use a muxtable as new as the one that wrote it",
        )
    checksum = document.pop("checksum", None)
    if checksum != _checksum(document):
        raise SnapshotError(f"{where} is damaged: its checksum is not that of its text", _DAMAGED)
    try:
        manifest = Manifest.model_validate_json(canonical.encode(document))
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part)[:80] for part in error["loc"])
        raise SnapshotError(f'{where}: key "{key}": {error["msg"]}', _DAMAGED) from exc
    check_manifest(manifest, where)
    return manifest


def join_parts(parts: Sequence[Parts], where: str) -> Parts:
    """Returns what several processes wrote as one; SnapshotError where shapes differ."""
    tensors: dict[str, TensorEntry] = {}
    for entry in (entry for each in parts for entry in each.tensors):
        known = tensors.setdefault(entry.name, entry)
        if known is entry:
            continue
        if (known.dtype, known.shape) != (entry.dtype, entry.shape):
            raise SnapshotError(
                f'{where}: tensor "{entry.name}" is {known.dtype} {list(known.shape)} for one '
                f"process and {entry.dtype} {list(entry.shape)} for another",
                "start all processes with the same job",
            )
        merged = sorted((*known.parts, *entry.parts), key=lambda part: (part.first_row, part.rows))
        tensors[entry.name] = known.model_copy(update={"parts": tuple(merged)})
    files = sorted((entry for each in parts for entry in each.files), key=lambda entry: entry.name)
    return Parts(files=tuple(files), tensors=tuple(tensors[name] for name in sorted(tensors)))


def check_limits(size_bytes: int, num_entries: int, where: str) -> None:
    """Raises SnapshotError where a manifest of that size could not be read again."""
    fix = "write fewer or larger tensors, or cut the table into several bundles"
    if size_bytes > MAX_MANIFEST_BYTES:
        raise SnapshotError(
            f"{where} would have {size_bytes:,} bytes; at most {MAX_MANIFEST_BYTES:,} are read", fix
        )
    if num_entries > MAX_ENTRIES:
        raise SnapshotError(
            f"{where} would have {num_entries:,} files, tensors and parts; at most {MAX_ENTRIES:,}",
            fix,
        )


def check_manifest(manifest: Manifest, where: str) -> None:
    """Raises SnapshotError where parts of a manifest contradict each other."""
    problem = _problem(manifest)
    if problem is not None:
        raise SnapshotError(f"{where}: {problem}", _DAMAGED)


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(canonical.encode(document)).hexdigest()


def _num_entries(manifest: Manifest) -> int:
    parts = sum(len(tensor.parts) for tensor in manifest.tensors)
    return len(manifest.files) + len(manifest.tensors) + parts


def _problem(manifest: Manifest) -> str | None:
    if _num_entries(manifest) > MAX_ENTRIES:
        return f"more than {MAX_ENTRIES:,} files, tensors and parts"
    if not is_name("attempt", manifest.attempt):
        return "attempt is no token"
    if manifest.parent is not None and not is_name("digest", manifest.parent):
        return "parent is no sha256"
    for entries in (manifest.files, manifest.tensors):
        twice = [
            name for name, count in Counter(entry.name for entry in entries).items() if count > 1
        ]
        if twice:
            return f"{twice[0][:80]!r} stands twice"
    return _file_problem(manifest) or _tensor_problem(manifest)


def _file_problem(manifest: Manifest) -> str | None:
    for entry in manifest.files:
        shown = f"file {entry.name[:80]!r}"
        if not is_name("file", entry.name) or entry.name == MANIFEST:
            return f"{shown} has a name that is not allowed"
        if not is_name("digest", entry.sha256):
            return f"{shown} has no sha256"
        try:
            crcs = decode_crcs(entry.crc32)
        except ValueError:
            return f"{shown} has no crc32"
        if len(crcs) != num_crcs(entry.size):
            return f"{shown} has {len(crcs)} crc32 for {entry.size:,} bytes"
    return None


def _tensor_problem(manifest: Manifest) -> str | None:
    sizes = {entry.name: entry.size for entry in manifest.files}
    used: dict[str, int] = {}
    for tensor in manifest.tensors:
        shown = f"tensor {tensor.name[:80]!r}"
        if not is_name("tensor", tensor.name):
            return f"{shown} has a name that is not allowed"
        if tensor.dtype not in DTYPES:
            return f"{shown} has a dtype that is not known"
        if not is_shape(tensor.shape, DTYPES[tensor.dtype].itemsize):
            return f"{shown} has a shape that is not allowed"
        row = 0
        files = set()
        for part in tensor.parts:
            if part.first_row != row:
                return f"{shown}: its parts do not follow each other at row {row:,}"
            if not part.file.endswith(TENSOR_SUFFIX) or part.file not in sizes:
                return f"{shown} lies in {part.file[:80]!r}, which is no tensor file of the bundle"
            if part.file in files:
                return f"{shown} has two parts in one file"
            files.add(part.file)
            used[part.file] = used.get(part.file, 0) + part.rows * tensor.row_bytes
            row += part.rows
        if not tensor.parts or row != tensor.num_rows:
            return f"{shown} has {tensor.num_rows:,} rows, its parts {row:,}"
    for name, size in sizes.items():
        if name.endswith(TENSOR_SUFFIX) and name not in used:
            return f"tensor file {name!r} holds no tensor"
        if used.get(name, 0) > size:
            return f"tensor file {name!r} is smaller than its tensors"
    return None
