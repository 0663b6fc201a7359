"""Writing a bundle: into a fresh directory, synced, then renamed into place in one step.

    .<name>.<attempt>.<nonce>.tmp/      made
      00000-<tensor>.safetensors ...    written and synced, by threads (storage.parts)
      r0001-00000-<tensor>.safetensors  the same by other processes, where several write
      <files>
      manifest.json                     written last and synced
    .<name>.<attempt>.<nonce>.tmp/      synced
    <name>/                             renamed, never over anything
    <parent>/                           synced

So `<name>` is complete whenever it exists, and a crash leaves at most a directory whose name tells
which attempt it belongs to. Any error is the end of the bundle: nothing is retried.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from features.errors import SnapshotError
from storage import canonical
from storage.fsops import DISK, Disk, remove_quietly, translated
from storage.manifest import (
    FileEntry,
    Kind,
    Manifest,
    Parts,
    check_manifest,
    encode_manifest,
    join_parts,
)
from storage.names import MANIFEST, check_name, name_taken, temporary_path
from storage.parts import PartsWriter, Sharded
from storage.tensors import MAX_PART_BYTES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A manifest that is ready to be written."""

    data: bytes
    digest: str
    files: tuple[FileEntry, ...]
    size_bytes: int
    """Bytes of the bundle, the manifest among them."""


def sealed(
    kind: Kind,
    attempt: str,
    parent_digest: str | None,
    parts: Sequence[Parts],
    content: Mapping[str, Any],
    where: str,
) -> Sealed:
    """Returns the manifest of what one or several processes wrote.

    Raises SnapshotError where the rows of a tensor do not add up.
    """
    joined = join_parts(parts, where)
    manifest = Manifest(
        kind=kind,
        attempt=attempt,
        parent=parent_digest,
        files=joined.files,
        tensors=joined.tensors,
        content=canonical.plain(dict(content), "content"),
    )
    check_manifest(manifest, where)
    data = encode_manifest(manifest, where)
    return Sealed(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        files=joined.files,
        size_bytes=sum(entry.size for entry in joined.files) + len(data),
    )


class BundleWriter:
    """A bundle that is being written; as a context, it removes what was not published.

    `threads` write and hash files side by side. `copy_budget` is the memory that copies made by
    `add_tensor(copy=True)` may take up.
    """

    def __init__(
        self,
        parent: Path,
        name: str,
        kind: Kind,
        attempt: str,
        parent_digest: str | None = None,
        *,
        threads: int = 1,
        copy_budget: int = 0,
        part_bytes: int = MAX_PART_BYTES,
        disk: Disk = DISK,
    ) -> None:
        check_name("attempt", attempt)
        self.name = check_name("bundle", name)
        self.path = parent / name
        self.size_bytes = 0
        self._kind: Kind = kind
        self._attempt = attempt
        self._parent_digest = parent_digest
        self._disk = disk
        self.is_published = False
        self._directory = temporary_path(parent, name, attempt)
        with translated("begin a bundle", parent):
            disk.make_directory(self._directory)
        self.parts = PartsWriter(
            self._directory,
            parent,
            threads=threads,
            copy_budget=copy_budget,
            part_bytes=part_bytes,
            disk=disk,
        )

    @property
    def directory(self) -> Path:
        """Where it is being written: the draft, then the bundle."""
        return self._directory

    def add_tensor(self, name: str, array: np.ndarray, *, copy: bool = False) -> None:
        """Writes an array of any strides; see `PartsWriter.add`."""
        self.parts.add(name, Sharded.whole(array), copy=copy)

    def add_file(self, name: str, data: bytes) -> None:
        """Writes a small file beside the tensors."""
        self.parts.add_file(name, data)

    def finish(self) -> None:
        """Hands to the threads what is left; nothing may be added after it.

        `seal` does it too, but a thread that outlives the interpreter's end may start no work.
        """
        self.parts.finish()

    def seal(self, content: Mapping[str, Any], others: Sequence[Parts] = ()) -> str:
        """Waits for all files and writes the manifest; returns its sha256.

        `others` is what other processes wrote into the same draft. Raises SnapshotError where the
        rows of a tensor do not add up.
        """
        made = sealed(
            self._kind,
            self._attempt,
            self._parent_digest,
            [self.parts.parts(), *others],
            content,
            f'the manifest of "{self.path}"',
        )
        self.size_bytes = made.size_bytes
        self.parts.write(MANIFEST, lambda: iter([memoryview(made.data)]))
        with translated("sync a bundle", self.path.parent):
            self._disk.sync_directory(self._directory)
        return made.digest

    def publish(self) -> None:
        """Renames the sealed bundle into place; SnapshotError where something has its name."""
        parent = self.path.parent
        try:
            with translated("publish a bundle", parent):
                self._disk.rename_new(self._directory, self.path)
                self._directory = self.path
                self._disk.sync_directory(parent)
        except SnapshotError as exc:
            if isinstance(exc.__cause__, FileExistsError):
                raise name_taken(self.path) from exc.__cause__
            raise
        self.is_published = True

    def commit(self, content: Mapping[str, Any]) -> str:
        """Seals and publishes; returns the sha256 of the manifest."""
        digest = self.seal(content)
        self.publish()
        return digest

    def discard(self) -> None:
        """Removes what this writer wrote, published or not; errors are only logged."""
        self.parts.stop()
        if self._directory == self.path:
            self._directory = temporary_path(self.path.parent, self.name, self._attempt)
            with suppress(OSError):
                self._disk.rename_new(self.path, self._directory)
        if not remove_quietly(self._disk, self._directory):
            logger.warning('could not remove "%s"; the next start will', self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.is_published:
            self.discard()
