"""From the patterns of a job file to files: paths, globs and folders, on disk or behind a URI.

    train.parquet               a file; relative to the folder of the job file
    logs/2024-*/*.parquet       a glob; ** crosses folders
    logs/                       a folder: every *.parquet below it
    s3://bucket/logs/*.parquet  the same through pyarrow.fs; a query gives options of its filesystem

What a wildcard matches leaves out names that begin with "." or "_" (`_SUCCESS`, `.part.crc`).
"""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs

from features.errors import DataError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_OPTIONS = re.compile(r"\?(?=[A-Za-z_]+=)")
_WILDCARD = re.compile(r"[*?\[]")
# Schemes whose paths in pyarrow.fs begin with the bucket.
_BUCKETS = ("s3", "gs", "gcs")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: its name for people and manifests, and where pyarrow finds it."""

    path: str
    filesystem: Any
    location: str
    size: int
    modified_ns: int | None
    is_remote: bool


def find_files(patterns: str | Sequence[str], base: Path) -> tuple[FileEntry, ...]:
    """Returns the files that the patterns match, sorted by path and without duplicates.

    Paths stay relative to `base` where the pattern was relative, so a folder can be moved as a
    whole. Raises DataError naming a pattern that matches nothing or that cannot be looked at.
    """
    entries: dict[str, FileEntry] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not pattern.strip() or "\0" in pattern:
            raise DataError(f"{pattern!r} is no path", 'write a path such as "data/*.parquet"')
        find = _find_remote if _is_remote(pattern) else _find_local
        for entry in find(pattern, base):
            # The same file under two patterns counts once, by its absolute place.
            entries.setdefault(f"{entry.is_remote} {entry.location}", entry)
    if not entries:
        raise DataError("no input file is given", 'name at least one, as in "data/*.parquet"')
    return tuple(sorted(entries.values(), key=lambda entry: entry.path))


def _is_remote(pattern: str) -> bool:
    return bool(_SCHEME.match(pattern)) and not pattern.startswith("file://")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _find_local(pattern: str, base: Path) -> Iterator[FileEntry]:
    plain = pattern.removeprefix("file://")
    try:
        found = _names(plain, base)
    except OSError as exc:
        raise DataError(
            f'"{pattern}" cannot be looked at: {exc.strerror}',
            "give this user the right to enter the folder",
        ) from exc
    if not found:
        raise DataError(
            f'no file matches "{pattern}" ({base / plain})', _what_is_there(base / plain)
        )
    for name in found:
        yield _local_entry(os.path.normpath(name), base)


def _names(pattern: str, base: Path) -> list[str]:
    """The files that a pattern matches, as it would name them."""
    start = base / pattern
    if start.is_dir():
        found = list(_walk(pattern, base))
        if not found:
            raise DataError(
                f'no *.parquet file in the folder "{pattern}" ({start})',
                "name the folder that holds the Parquet files, or a glob of other names",
            )
        return found
    if os.path.lexists(start):
        return [pattern]
    return list(_match_local(pattern, base)) if _WILDCARD.search(pattern) else []


def _walk(folder: str, base: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f'the folder "{error.filename}" cannot be read: {error.strerror}',
            "give this user the right to list it",
        ) from error

    for place, folders, names in os.walk(base / folder, onerror=refuse, followlinks=False):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        below = os.path.relpath(place, base / folder)
        for name in names:
            if name.endswith(".parquet") and not _is_hidden(name):
                yield str(Path(folder, below, name))


def _match_local(pattern: str, base: Path) -> Iterator[str]:
    hidden_asked = _is_hidden(Path(pattern).name)
    for name in glob.glob(pattern, root_dir=base, recursive=True):  # noqa: PTH207 (relative results)
        if (base / name).is_dir():
            # `**` gives each folder and the files in it; a folder of parts has the suffix.
            if name.endswith(".parquet") and not pattern.endswith("**"):
                yield from _walk(name, base)
        elif hidden_asked or not _is_hidden(Path(name).name):
            yield name


def _local_entry(name: str, base: Path) -> FileEntry:
    place = base / name
    try:
        status = place.stat()
    except OSError as exc:
        raise DataError(
            f'the file "{name}" cannot be read: {exc.strerror}', "check the path and its rights"
        ) from exc
    if not place.is_file():
        raise DataError(f'"{name}" is not a regular file', "name Parquet files or their folder")
    return FileEntry(
        path=Path(name).as_posix(),
        filesystem=_LOCAL,
        location=os.path.realpath(place),
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        is_remote=False,
    )


_LOCAL = pyarrow.fs.LocalFileSystem()


def _what_is_there(start: Path) -> str:
    """Says where the path stops to exist, and what stands beside it."""
    folder = start.parent
    try:
        while _WILDCARD.search(folder.name) or not folder.exists():
            folder = folder.parent
        names = sorted(name.name for name in folder.iterdir() if not _is_hidden(name.name))
    except OSError as exc:
        return f"the folder {folder} cannot be read: {exc.strerror}"
    if not names:
        return f"the folder {folder} exists, but is empty"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"paths are relative to the job file; {folder} holds {', '.join(names[:5])}{more}"


def _find_remote(pattern: str, base: Path) -> Iterator[FileEntry]:  # noqa: ARG001 (one signature)
    split = _OPTIONS.split(pattern, maxsplit=1)
    address, options = split[0], f"?{split[1]}" if len(split) > 1 else ""
    shown = _without_credentials(address)
    fixed = _fixed_part(address)
    try:
        filesystem, root = pyarrow.fs.FileSystem.from_uri(fixed + options)
        found = list(_list_remote(filesystem, root, address[len(fixed) :].strip("/")))
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise DataError(
            f'"{shown}" cannot be listed: {first_line(exc).replace(address, shown)}',
            "check the address, the credentials in the environment, and whether the store answers",
        ) from exc
    if not found:
        raise DataError(f'no file matches "{shown}"', "check the address; folders need *.parquet")
    scheme, authority = address.split("://", 1)[0], urlsplit(shown).netloc
    prefix = f"{scheme}://" if scheme in _BUCKETS else f"{scheme}://{authority}"
    for info in found:
        yield FileEntry(
            path=prefix + info.path,
            filesystem=filesystem,
            location=info.path,
            size=info.size or 0,
            modified_ns=info.mtime_ns,
            is_remote=True,
        )


def _list_remote(filesystem: Any, root: str, wildcard: str) -> Iterator[Any]:
    FileType = pyarrow.fs.FileType  # noqa: N806 (a class)
    info = filesystem.get_file_info(root)
    if info.type == FileType.File and not wildcard:
        yield info
        return
    if info.type != FileType.Directory:
        return
    recursive = not wildcard or "/" in wildcard or "**" in wildcard
    selector = pyarrow.fs.FileSelector(root, recursive=recursive)
    for below in filesystem.get_file_info(selector):
        if below.type != FileType.File:
            continue
        parts = below.path[len(root) :].strip("/").split("/")
        if wildcard:
            hidden_asked = _is_hidden(wildcard.split("/")[-1])
            wanted = matches(parts, wildcard.split("/"))
            wanted = wanted and (hidden_asked or not _is_hidden(parts[-1]))
        else:
            wanted = parts[-1].endswith(".parquet") and not any(map(_is_hidden, parts))
        if wanted:
            yield below


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Says whether the parts of a path match those of a glob; `**` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(matches(parts[skip:], pattern[1:] or ["*"]) for skip in range(len(parts)))
    if not parts or not fnmatch.fnmatchcase(parts[0], pattern[0]):
        return False
    return matches(parts[1:], pattern[1:])


def _fixed_part(address: str) -> str:
    """The address up to the last folder before the first wildcard."""
    wildcard = _WILDCARD.search(address)
    return address if wildcard is None else address[: address.rindex("/", 0, wildcard.start())]


def _without_credentials(address: str) -> str:
    scheme, rest = address.split("://", 1)
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def first_line(exc: BaseException) -> str:
    """The first line of a foreign error's text: the rest is often a stack of C++ calls."""
    text = str(exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
