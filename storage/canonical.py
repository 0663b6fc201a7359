"""Canonical JSON: one value has one sequence of bytes, and nothing else is read.

UTF-8, keys sorted, no blanks, numbers as Python writes them, no NaN or infinity, at most 64 levels.
So a digest of the bytes is a digest of the value, a key cannot stand twice, and a document that was
edited by hand is refused instead of half understood.
"""

import json
import math
from pathlib import Path
from typing import Any

from features.errors import SnapshotError
from storage.fsops import Disk, read_all

MAX_DEPTH = 64
MAX_BITS = 1024

_EDITED = "it was edited or damaged: take it from a copy"


def encode(value: Any) -> bytes:
    """Returns the bytes of a value made of dict, list, str, int, float, bool and None."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode()


def decode(data: bytes, where: str) -> Any:
    """Returns the value of canonical bytes; SnapshotError naming `where` if they are not."""
    try:
        value = json.loads(data.decode())
        is_canonical = encode(value) == data
    except (ValueError, RecursionError) as exc:
        raise SnapshotError(
            f"{where} is not JSON that can be read: {_reason(exc)}", _EDITED
        ) from exc
    if not is_canonical:
        raise SnapshotError(f"{where} is not in canonical form", _EDITED)
    if _depth_exceeds(value, MAX_DEPTH):
        raise SnapshotError(f"{where} is nested deeper than {MAX_DEPTH} levels", _EDITED)
    return value


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Returns `value` with tuples as lists; SnapshotError naming what is no plain JSON."""
    fix = (
        "convert it to plain numbers, strings, lists and dicts with string keys; arrays are tensors"
    )
    if depth > MAX_DEPTH:
        raise SnapshotError(f"{where} is nested deeper than {MAX_DEPTH} levels", fix)
    if value is None or type(value) is bool:
        return value
    if type(value) is int and value.bit_length() <= MAX_BITS:
        return value
    if type(value) is str and not any("\ud800" <= letter <= "\udfff" for letter in value):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise SnapshotError(f"{where} is {value}", "store null for a number that is not finite")
        return value
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise SnapshotError(f"{where} has the key {key!r}, which is no string", fix)
        return {key: plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    odd = {int: f"an integer of more than {MAX_BITS} bits", str: "a string with lone surrogates"}
    raise SnapshotError(f"{where} is {odd.get(type(value), 'a ' + type(value).__name__)}", fix)


def read_small(disk: Disk, descriptor: int, size: int, cap: int, where: str) -> bytes:
    """Returns a whole small file; SnapshotError where it is larger than `cap` or cut."""
    if size > cap:
        raise SnapshotError(f"{where} has {size:,} bytes; at most {cap:,} are read", _EDITED)
    # One byte more than it should hold: a file that grew meanwhile is noticed.
    buffer = bytearray(size + 1)
    count = read_all(disk, descriptor, memoryview(buffer), 0)
    if count != size:
        raise SnapshotError(f"{where} changed while it was read", "read it again")
    return bytes(buffer[:size])


def shown(path: Path) -> str:
    """Returns a path as messages show it."""
    return f'"{path}"'


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            item
            for parent in level
            if isinstance(parent, list | dict)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return any(isinstance(item, list | dict) for item in level)


def _reason(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if isinstance(exc, UnicodeError):
        return "it is not UTF-8"
    return str(exc).split(": ", 1)[0]
