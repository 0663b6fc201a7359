"""Small files beside bundles: canonical JSON with a crc32 over the rest, replaced in one step."""

import errno
import os
import stat
import zlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from features.errors import SnapshotError
from storage import canonical
from storage.fsops import Disk, replace_file, translated
from storage.names import temporary_path

MAX_BYTES = 4096
_CHECK = "check"


def write_document(path: Path, fields: Mapping[str, Any], attempt: str, disk: Disk) -> None:
    """Makes `path` hold these fields; at every moment it is the old document or the new one."""
    temporary = temporary_path(path.parent, path.name.lower().lstrip("."), attempt)
    with translated(f"write {path.name}", path.parent):
        replace_file(disk, path, encode_document(fields), temporary)


def encode_document(fields: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a document with these fields."""
    document = dict(fields)
    document[_CHECK] = zlib.crc32(canonical.encode(document))
    return canonical.encode(document)


def read_document(path: Path, keys: Set[str], fix: str, disk: Disk) -> dict[str, Any] | None:
    """Returns the fields of a document, None where it is missing.

    SnapshotError with `fix` unless it has exactly these keys and is as it was written.
    """
    data = _read(path, disk)
    if data is None:
        return None
    return decode_document(data, f'"{path}"', keys, fix)


def decode_document(data: bytes, where: str, keys: Set[str], fix: str) -> dict[str, Any]:
    """Returns the fields of a document's bytes; raises as `read_document`."""
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"{where} has {len(data):,} bytes; at most {MAX_BYTES:,} are read", fix)
    try:
        document = canonical.decode(data, where)
    except SnapshotError as exc:
        raise SnapshotError(exc.what, fix) from exc
    if not isinstance(document, dict) or document.keys() != keys | {_CHECK}:
        raise SnapshotError(f"{where} has other keys than it should", fix)
    if document.pop(_CHECK) != zlib.crc32(canonical.encode(document)):
        raise SnapshotError(f"{where} is damaged: its crc32 is another", fix)
    return document


def _read(path: Path, disk: Disk) -> bytes | None:
    where = f'"{path}"'
    try:
        descriptor = disk.open_file(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise SnapshotError(f"{where} is a symbolic link", "put the file itself there") from exc
        raise SnapshotError(f"cannot read {where}: {exc.strerror}", "check the path") from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotError(f"{where} is no plain file", "remove it; nothing of ours made it")
        with translated(f"read {path.name}", path.parent):
            return canonical.read_small(disk, descriptor, status.st_size, MAX_BYTES, where)
    finally:
        disk.close(descriptor)
