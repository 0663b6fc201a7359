"""The end of a Parquet file: told apart from what is not one, and parsed within limits.

Nothing in a file is trusted: sizes are bounded before they are allocated, and every error of the
reader becomes a DataError with the place. The column chunks of a footer are never looked at from
here: pyarrow (26.0) ends the process where their statistics are damaged, while reading raises.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import DataError
from features.patterns import FileEntry, first_line

WRITE_AGAIN = "copy or write the file again, or leave it out of the pattern"

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_SMALLEST = 12  # magic, length of the footer, magic
_MAX_FOOTER_BYTES = 256 << 20
_MAX_FOOTER_ITEMS = 10_000_000


def read_footer(entry: FileEntry) -> tuple[Any, Any]:
    """Returns the metadata and the Arrow schema of a file."""
    if entry.size == 0:
        raise DataError(f"{entry.path}: the file is empty (0 bytes)", WRITE_AGAIN)
    with translated(entry.path), entry.filesystem.open_input_file(entry.location) as source:
        _check_ends(source, entry)
        # Limits for the parser: a damaged footer may claim any number of strings and lists.
        opened = pq.ParquetFile(
            source,
            pre_buffer=False,
            thrift_string_size_limit=_MAX_FOOTER_BYTES,
            thrift_container_size_limit=_MAX_FOOTER_ITEMS,
        )
        metadata, schema = opened.metadata, opened.schema_arrow
    for field in schema:
        _refuse_code(field, entry.path)
    names = schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f'{entry.path}: there are {names.count(twice)} columns named "{twice}"',
            "rename one of them when the file is written",
        )
    _check_counts(metadata, entry.path)
    return metadata, schema


def _check_ends(source: Any, entry: FileEntry) -> None:
    """Tells apart what is not Parquet, what is cut short and what is encrypted."""
    size = source.size()
    if size < _SMALLEST:
        raise DataError(f"{entry.path}: {size} bytes are too few for a Parquet file", WRITE_AGAIN)
    head = source.read_at(4, 0)
    length, tail = struct.unpack("<I4s", source.read_at(8, size - 8))
    if _ENCRYPTED in (head, tail):
        raise DataError(
            f"{entry.path}: the file is encrypted", "write it without Parquet encryption"
        )
    if head != _MAGIC:
        raise DataError(
            f"{entry.path}: the file is not Parquet (it begins with {head!r})",
            "convert it to Parquet, or narrow the pattern to *.parquet",
        )
    if tail != _MAGIC:
        raise DataError(
            f"{entry.path}: the file is cut short: it begins like Parquet, but its end is missing",
            WRITE_AGAIN,
        )
    if length > min(size - _SMALLEST, _MAX_FOOTER_BYTES):
        raise DataError(
            f"{entry.path}: the file is damaged: its footer claims {length} bytes of {size}",
            WRITE_AGAIN,
        )


def _refuse_code(field: Any, path: str) -> None:
    """Refuses Arrow extensions of Ray: before 2.55 it ran what their metadata says (a pickle)."""
    name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")
    if isinstance(field.type, pa.BaseExtensionType):
        name = field.type.extension_name
    if name.startswith("ray."):
        raise DataError(
            f'{path}: column "{field.name}" has the Arrow extension "{name}", which may hold code',
            "write the column as numbers, strings or lists",
        )
    for child in range(field.type.num_fields):
        _refuse_code(field.type.field(child), path)


def _check_counts(metadata: Any, path: str) -> None:
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise DataError(
            f"{path}: the file is damaged: its row groups have {sum(rows)} rows, its footer says "
            f"{metadata.num_rows}",
            WRITE_AGAIN,
        )


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turns errors of pyarrow and the system into DataError at a place."""
    try:
        yield
    except DataError:
        raise
    except PermissionError as exc:
        raise DataError(
            f"{place}: no right to read it", "give this user the right to read the file"
        ) from exc
    except (pa.ArrowException, OSError, ValueError, MemoryError) as exc:
        raise DataError(f"{place}: cannot be read: {first_line(exc)}", WRITE_AGAIN) from exc
