"""What is in force in a directory of versions, and what was before: kept over restarts.

    CURRENT       the version in force (storage.pointer): the truth, and written last
    PROMOTIONS    a document beside it
      stack       [name, digest] of the versions in force before and now, the newest last
      newest      the highest name that was ever promoted: a rollback is not undone by following
      pinned      the version that stays in force whatever arrives, or ""
      labels      label -> version

A crash between the two leaves a stack whose last entry is not in force yet; it is left out when it
is read.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from features.errors import DataError, SnapshotError, StateError
from storage.documents import read_document, write_document
from storage.fsops import DISK
from storage.pointer import read_pointer, write_pointer
from storage.versions import is_version

DOCUMENT = "PROMOTIONS"
_KEYS = frozenset({"stack", "newest", "pinned", "labels"})
_FIX = "remove it: what can be rolled back to is then forgotten, and nothing else"
_MOST_STACKED = 12
_MOST_LABELS = 16
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_RESERVED = ("current", "previous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotions:
    """The promotions of a directory; every change makes a new one."""

    counter: int = 0
    stack: tuple[tuple[str, str], ...] = ()
    """(name, digest), the version in force last."""
    newest: str = ""
    pinned: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def current(self) -> str:
        """The version in force, or "" where none is."""
        return self.stack[-1][0] if self.stack else ""

    @property
    def previous(self) -> str:
        """The version that a rollback puts in force, or ""."""
        return self.stack[-2][0] if len(self.stack) > 1 else ""

    @property
    def digest(self) -> str | None:
        """The digest of the version in force."""
        return self.stack[-1][1] if self.stack else None

    def promoted(self, name: str, digest: str) -> "Promotions":
        """Returns these with a version on top."""
        stack = self.stack if self.current == name else (*self.stack, (name, digest))
        return replace(
            self,
            counter=self.counter + 1,
            stack=stack[-_MOST_STACKED:],
            newest=max(self.newest, name),
        )

    def rolled_back(self) -> "Promotions":
        """Returns these without the top; StateError where nothing is below it."""
        if len(self.stack) < 2:
            raise StateError("nothing was in force before", "promote a version by its name")
        return replace(self, counter=self.counter + 1, stack=self.stack[:-1])

    def pinned_to(self, name: str) -> "Promotions":
        """Returns these pinned to the version in force, or with "" not pinned."""
        if name not in ("", self.current):
            raise StateError(f"version {name} is not in force", "promote it first, then pin it")
        return replace(self, pinned=name)

    def labelled(self, label: str, name: str) -> "Promotions":
        """Returns these with a label on a version; DataError for one that cannot be."""
        if _LABEL.fullmatch(label) is None or label in _RESERVED or is_version(label):
            raise DataError(
                f"{label[:40]!r} cannot be a label",
                "use up to 32 of a-z 0-9 _ -, not current, not previous, not a version's name",
            )
        labels = {**self.labels, label: name}
        if len(labels) > _MOST_LABELS:
            raise StateError(f"there are {_MOST_LABELS} labels already", "move one of them")
        return replace(self, labels=labels)


def read_promotions(directory: Path) -> Promotions:
    """Returns what is in force; SnapshotError where the documents are damaged."""
    pointer = read_pointer(directory)
    said = read_document(directory / DOCUMENT, _KEYS, _FIX, DISK)
    promotions = Promotions() if said is None else _parsed(said, directory / DOCUMENT)
    if pointer is None:
        return replace(promotions, stack=())
    stack = promotions.stack
    if (pointer.name, pointer.digest) in stack:
        last = max(i for i, each in enumerate(stack) if each == (pointer.name, pointer.digest))
        stack = stack[: last + 1]
    else:
        stack = (*stack, (pointer.name, pointer.digest))[-_MOST_STACKED:]
    pinned = promotions.pinned if promotions.pinned == pointer.name else ""
    return replace(
        promotions,
        counter=pointer.counter,
        stack=stack,
        newest=max(promotions.newest, pointer.name),
        pinned=pinned,
    )


def write_promotions(directory: Path, promotions: Promotions) -> None:
    """Makes a directory say so; SnapshotError where it cannot be written."""
    document: dict[str, Any] = {
        "stack": [list(entry) for entry in promotions.stack],
        "newest": promotions.newest,
        "pinned": promotions.pinned,
        "labels": promotions.labels,
    }
    write_document(directory / DOCUMENT, document, "serve", DISK)
    if promotions.stack:
        name, digest = promotions.stack[-1]
        write_pointer(directory, name, digest, promotions.counter, attempt="serve")


def _parsed(said: dict[str, Any], path: Path) -> Promotions:
    stack, newest, pinned, labels = (said[key] for key in ("stack", "newest", "pinned", "labels"))
    is_sound = (
        isinstance(stack, list)
        and all(isinstance(each, list) and len(each) == 2 for each in stack)
        and all(isinstance(text, str) for each in stack for text in each)
        and isinstance(newest, str)
        and isinstance(pinned, str)
        and isinstance(labels, dict)
        and all(isinstance(text, str) for text in labels.values())
    )
    if not is_sound:
        raise SnapshotError(f'"{path}" is no record of promotions', _FIX)
    return Promotions(
        stack=tuple((name, digest) for name, digest in stack),
        newest=newest,
        pinned=pinned,
        labels=labels,
    )
