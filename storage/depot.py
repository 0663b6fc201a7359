"""A place for the bundles of a run, with a pointer to the one in force and one owner at a time.

Two kinds do the same: a directory (`storage.directory_depot`) and a prefix of an object store
(`storage.object_depot`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from storage.fsops import DISK, Disk
from storage.manifest import Kind, Parts
from storage.parts import PartsWriter
from storage.places import ObjectPath, Place
from storage.pointer import Pointer


class Draft(Protocol):
    """A bundle that is being written."""

    parts: PartsWriter
    size_bytes: int

    @property
    def label(self) -> str:
        """What other processes join it by."""

    def seal(self, content: Mapping[str, Any], others: Sequence[Parts] = ()) -> str:
        """Waits for all files and makes the manifest; returns its sha256."""

    def discard(self) -> None:
        """Removes what was written of it."""


class Tenure(Protocol):
    """This process's right to write into a depot, until a newer one takes it."""

    token: str
    lineage: str
    number: int

    def free_name(self, base: str) -> str:
        """Returns a name that nothing has, `base` or `base`-NUMBER."""

    def begin(
        self, name: str, kind: Kind, parent_digest: str | None, *, threads: int, copy_budget: int
    ) -> Draft:
        """Begins a bundle."""

    def commit(self, draft: Draft, digest: str, counter: int) -> None:
        """Puts a sealed draft in its place and in force; SnapshotError where it may not.

        A draft that was not committed is discarded.
        """

    def remove(self, names: Sequence[str]) -> None:
        """Removes bundles, in that order."""

    def close(self) -> None:
        """Gives the depot up."""


class Depot(Protocol):
    """Bundles side by side."""

    @property
    def place(self) -> Place:
        """Where it is."""

    def names(self) -> list[str]:
        """Returns the names there, sorted; of a place that does not exist none."""

    def has_bundle(self, name: str) -> bool:
        """Whether a complete bundle has that name, as far as its manifest tells."""

    def pointer(self) -> Pointer | None:
        """Returns the bundle in force, None where there is none; refuses a damaged pointer."""

    def take(self, attempt: str | None) -> Tenure:
        """Takes the depot over from whoever has it, and removes what dead processes left."""

    def join(self, label: str, prefix: str, *, threads: int, copy_budget: int) -> PartsWriter:
        """Returns what another process writes its files of a draft with."""

    def put_word(self, word: str, attempt: str) -> str:
        """Leaves a word for other processes for a moment; returns what they find it by."""

    def word(self, label: str) -> str | None:
        """Returns the word that was left, None where there is none."""

    def drop_word(self, label: str) -> None:
        """Removes the word."""


def depot_at(place: Place, disk: Disk = DISK) -> Depot:
    """Returns the depot at a place; nothing is touched."""
    if isinstance(place, Path):
        from storage.directory_depot import DirectoryDepot

        return DirectoryDepot(place, disk)
    return _object_depot(place)


def _object_depot(place: ObjectPath) -> Depot:
    # Loaded where it is needed: pyarrow's part for S3 takes a while to start.
    from storage.object_depot import ObjectDepot

    return ObjectDepot(place)
