"""The pointer: a small document CURRENT that names the bundle in force.

check      crc32 of the canonical JSON of the rest
counter    rises by one with each promotion
digest     sha256 of the bundle's manifest
name       its directory, beside the pointer
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from features.errors import SnapshotError
from storage.documents import read_document, write_document
from storage.fsops import DISK, Disk
from storage.names import check_name, is_name

POINTER = "CURRENT"
_KEYS = frozenset({"name", "digest", "counter"})
_FIX = "restore it from a copy, or allow the newest good bundle to be used instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """The bundle in force: its directory, the sha256 of its manifest, its place in the order."""

    name: str
    digest: str
    counter: int


def write_pointer(
    directory: Path,
    name: str,
    digest: str,
    counter: int,
    *,
    attempt: str = "pointer",
    disk: Disk = DISK,
) -> None:
    """Puts a bundle in force; at every moment the pointer is the old one or the new one."""
    check_name("bundle", name)
    check_name("digest", digest)
    pointer = Pointer(name=name, digest=digest, counter=counter)
    write_document(directory / POINTER, asdict(pointer), attempt, disk)


def read_pointer(directory: Path, *, disk: Disk = DISK) -> Pointer | None:
    """Returns the bundle in force, None where there is no pointer; refuses a damaged one."""
    document = read_document(directory / POINTER, _KEYS, _FIX, disk)
    if document is None:
        return None
    name, digest, counter = document["name"], document["digest"], document["counter"]
    is_sound = (
        isinstance(name, str)
        and is_name("bundle", name)
        and isinstance(digest, str)
        and is_name("digest", digest)
        and type(counter) is int
        and counter >= 0
    )
    if not is_sound:
        raise SnapshotError(f'"{directory / POINTER}" does not name a bundle', _FIX)
    return Pointer(name=name, digest=digest, counter=counter)
