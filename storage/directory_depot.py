"""A directory of bundles: `storage.writer`, `storage.pointer` and `storage.attempts` together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import SnapshotError
from storage.attempts import Attempt
from storage.depot import Draft
from storage.fsops import DISK, Disk, remove_quietly, replace_file, translated
from storage.manifest import Kind, Parts
from storage.names import MANIFEST, temporary_path
from storage.parts import PartsWriter
from storage.pointer import Pointer, read_pointer, write_pointer
from storage.writer import BundleWriter


class DirectoryDepot:
    """The depot of a directory."""

    def __init__(self, place: Path, disk: Disk = DISK) -> None:
        self.place = place
        self._disk = disk

    def names(self) -> list[str]:
        """Returns the names there, sorted; of a directory that does not exist none."""
        with translated("list the checkpoints", self.place):
            try:
                return self._disk.names(self.place)
            except FileNotFoundError:
                return []

    def has_bundle(self, name: str) -> bool:
        """Whether a directory of that name has a manifest."""
        return (self.place / name / MANIFEST).is_file()

    def pointer(self) -> Pointer | None:
        """Returns the bundle in force."""
        return read_pointer(self.place, disk=self._disk)

    def take(self, attempt: str | None) -> "DirectoryTenure":
        """Starts an attempt (storage.attempts)."""
        return DirectoryTenure(self, Attempt(self.place, attempt, disk=self._disk), self._disk)

    def join(self, label: str, prefix: str, *, threads: int, copy_budget: int) -> PartsWriter:
        """Returns what another process writes its files of a draft with."""
        return PartsWriter(
            self.place / label,
            self.place,
            prefix=prefix,
            threads=threads,
            copy_budget=copy_budget,
            disk=self._disk,
        )

    def put_word(self, word: str, attempt: str) -> str:
        """Writes a file that is removed like anything half-written of that attempt."""
        path = temporary_path(self.place, "probe", attempt)
        with translated("write a probe", self.place):
            replace_file(
                self._disk, path, word.encode(), temporary_path(self.place, "probe", attempt)
            )
        return path.name

    def word(self, label: str) -> str | None:
        """Returns what such a file holds."""
        with translated("read a probe", self.place):
            try:
                return (self.place / label).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None

    def drop_word(self, label: str) -> None:
        """Removes such a file."""
        remove_quietly(self._disk, self.place / label)


class DirectoryTenure:
    """An attempt and what it may do in its directory."""

    def __init__(self, depot: DirectoryDepot, attempt: Attempt, disk: Disk) -> None:
        self._depot = depot
        self._attempt = attempt
        self._disk = disk
        self.token = attempt.token
        self.lineage = attempt.lineage
        self.number = attempt.number

    def free_name(self, base: str) -> str:
        """Returns the first name that nothing has: `base`, `base`-2, `base`-3..."""
        names = self._depot.names()
        name = base
        suffix = 1
        while name in names:
            suffix += 1
            name = f"{base}-{suffix}"
        return name

    def begin(
        self, name: str, kind: Kind, parent_digest: str | None, *, threads: int, copy_budget: int
    ) -> "DirectoryDraft":
        """Begins a bundle in a directory of its own."""
        return DirectoryDraft(
            BundleWriter(
                self._depot.place,
                name,
                kind,
                self.token,
                parent_digest,
                threads=threads,
                copy_budget=copy_budget,
                disk=self._disk,
            )
        )

    def commit(self, draft: Draft, digest: str, counter: int) -> None:
        """Renames the draft into place and replaces the pointer, while nobody may take over."""
        assert isinstance(draft, DirectoryDraft)  # noqa: S101
        writer = draft.writer
        try:
            with self._attempt.held():
                writer.publish()
                write_pointer(
                    self._depot.place,
                    writer.name,
                    digest,
                    counter,
                    attempt=self.token,
                    disk=self._disk,
                )
        except BaseException:
            # A pointer that was replaced but not synced may survive a crash: then its bundle must.
            if not (writer.is_published and self._may_be_in_force(writer.name)):
                writer.discard()
            raise

    def remove(self, names: Sequence[str]) -> None:
        """Renames bundles, so that none is seen half removed, and removes them."""
        doomed = []
        with self._attempt.held(), translated("remove old checkpoints", self._depot.place):
            for name in names:
                path = temporary_path(self._depot.place, name, self.token)
                self._disk.rename_new(self._depot.place / name, path)
                doomed.append(path)
            if doomed:
                self._disk.sync_directory(self._depot.place)
        left = [path for path in doomed if not remove_quietly(self._disk, path)]
        if left:
            raise SnapshotError(
                f'could not remove "{left[0]}"', "check the directory; the next start tries again"
            )

    def close(self) -> None:
        """Gives the directory up."""
        self._attempt.close()

    def _may_be_in_force(self, name: str) -> bool:
        try:
            pointer = self._depot.pointer()
        except SnapshotError:
            return True
        return pointer is not None and pointer.name == name


class DirectoryDraft:
    """A bundle that is being written into a directory."""

    def __init__(self, writer: BundleWriter) -> None:
        self.writer = writer
        self.parts = writer.parts
        self.size_bytes = 0

    @property
    def label(self) -> str:
        """The name of the directory it is written into."""
        return self.writer.directory.name

    def seal(self, content: Mapping[str, Any], others: Sequence[Parts] = ()) -> str:
        """Waits for all files and writes the manifest; returns its sha256."""
        digest = self.writer.seal(content, others)
        self.size_bytes = self.writer.size_bytes
        return digest

    def discard(self) -> None:
        """Removes the directory."""
        self.writer.discard()
