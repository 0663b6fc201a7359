"""Which names may appear in bundles: no path, nothing a file system or a terminal could misread.

    file, bundle   a-z 0-9 . _ -     at most 64, begins with a letter or a digit, no ".."
    tensor         A-Z a-z 0-9 . _ - at most 128, begins with a letter, a digit or _, no ".."
    attempt        a-z 0-9 -         at most 64, begins with a letter or a digit

File names have one case, so that a copy on a file system that folds case is the same bundle.
"""

import re
import secrets
from pathlib import Path

from features.errors import SnapshotError

MANIFEST = "manifest.json"
TENSOR_SUFFIX = ".safetensors"

_FILE = r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,63}"
_ATTEMPT = r"[a-z0-9][a-z0-9-]{0,63}"
_TEMPORARY = re.compile(rf"\.{_FILE}\.(?P<attempt>{_ATTEMPT})\.[0-9a-f]{{8}}\.tmp")
_FORMS = {
    "file": _FILE,
    "bundle": _FILE,
    "tensor": r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,127}",
    "attempt": _ATTEMPT,
    "digest": r"[0-9a-f]{64}",
}
_LETTERS = {
    "file": "up to 64 of a-z 0-9 . _ -",
    "bundle": "up to 64 of a-z 0-9 . _ -",
    "tensor": "up to 128 of A-Z a-z 0-9 . _ -",
    "attempt": "up to 64 of a-z 0-9 -",
    "digest": "64 of 0-9 a-f",
}


def is_name(kind: str, name: str) -> bool:
    """Whether `name` is a name of a file, bundle, tensor or attempt, or a digest."""
    # fullmatch, as "$" would let a newline through.
    return re.fullmatch(_FORMS[kind], name) is not None


def check_name(kind: str, name: str) -> str:
    """Returns `name`; raises SnapshotError if it is no name of that kind."""
    if not is_name(kind, name):
        shown = repr(name if len(name) <= 80 else name[:77] + "...")
        raise SnapshotError(
            f"{shown} cannot be the name of a {kind} of a bundle",
            f'use {_LETTERS[kind]}, without "..", beginning with a letter or a digit',
        )
    return name


def name_taken(place: object) -> SnapshotError:
    """Returns what is raised where something has the name of a new bundle already."""
    return SnapshotError(f'"{place}" exists already', "nothing is overwritten: use another name")


def temporary_path(parent: Path, name: str, attempt: str) -> Path:
    """Returns a new name for something that an attempt is making or removing."""
    return parent / f".{name}.{attempt}.{secrets.token_hex(4)}.tmp"


def temporary_attempt(name: str) -> str | None:
    """Returns the attempt in a name of `temporary_path`, None for any other name."""
    match = _TEMPORARY.fullmatch(name)
    return match["attempt"] if match else None


def slug(name: str) -> str:
    """Returns the part of a file name that reminds of a tensor's name."""
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())[:40]
