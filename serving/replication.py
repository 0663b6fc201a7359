"""Copies of versions: byte for byte, verified on the way, in place by one rename.

A download that breaks off goes on where it was. Whatever comes from elsewhere is held against the
manifest, and the manifest against the digest its service named.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from features.errors import SnapshotError, UnavailableError
from serving.stubs import parameter_pb2 as pb
from serving.wire import Wire, wait_s
from storage.drafts import check_space, held, sweep
from storage.fsops import DISK, read_all, remove_quietly, translated, write_all
from storage.manifest import FileEntry, decode_manifest
from storage.names import MANIFEST, temporary_path
from storage.versions import check_version

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_MOST_TRIES = 20
_PIECE_BYTES = 1 << 20

# pieces(file, offset) -> its bytes from there on; may break off with UnavailableError
Pieces = Callable[[str, int], Iterator[bytes]]


def fetch_version(wire: Wire, name: str, target: Path, stopped: threading.Event) -> None:
    """Fetches a version from another service into a directory of versions.

    Raises SnapshotError where what comes is not what the manifest says.
    """
    reply = wire.get_manifest(pb.Choice(version=check_version(name)), _TIMEOUT_S)
    if hashlib.sha256(reply.manifest).digest() != reply.stamp.digest:
        raise SnapshotError(
            f"{wire.target}: the manifest of {name} has another digest than its version",
            "fetch it again; look at the service",
        )

    def pieces(file: str, offset: int) -> Iterator[bytes]:
        for piece in wire.fetch_shard(name, file, offset):
            yield piece.data

    write_copy(target, name, reply.manifest, pieces, stopped)


def copy_version(source: Path, target: Path, stopped: threading.Event) -> None:
    """Copies a version from another directory."""
    with translated("read a version", source):
        manifest = (source / MANIFEST).read_bytes()

    def pieces(file: str, offset: int) -> Iterator[bytes]:
        with translated("read a version", source):
            descriptor = DISK.open_file(source / file)
            try:
                buffer = memoryview(bytearray(_PIECE_BYTES))
                while count := read_all(DISK, descriptor, buffer, offset):
                    yield bytes(buffer[:count])
                    offset += count
            finally:
                DISK.close(descriptor)

    write_copy(target, source.name, manifest, pieces, stopped)


def write_copy(
    parent: Path, name: str, manifest: bytes, pieces: Pieces, stopped: threading.Event
) -> None:
    """Writes a bundle of which manifest and files are given; SnapshotError where they differ.

    Raises UnavailableError when it is stopped. Nothing of a copy that failed stays.
    """
    check_version(name)
    files = decode_manifest(manifest, f"the manifest of {name}").files
    sweep(parent)
    check_space(parent, sum(entry.size for entry in files))
    draft = temporary_path(parent, name, "replica")
    began = time.monotonic()
    with translated("begin a copy", parent):
        DISK.make_directory(draft)
    try:
        with held(draft):
            for entry in files:
                _write_file(draft, entry, pieces, stopped)
            with translated("write the manifest", draft):
                _write(draft / MANIFEST, iter([manifest]))
                DISK.sync_directory(draft)
            with translated("publish a copy", parent):
                DISK.rename_new(draft, parent / name)
                DISK.sync_directory(parent)
    except BaseException:
        remove_quietly(DISK, draft)
        raise
    size = sum(entry.size for entry in files)
    logger.info("copied version %s: %.1f MB in %.1f s", name, size / 1e6, time.monotonic() - began)


class _Digest:
    """How much of a file has come, and its sha256."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()

    def update(self, piece: bytes) -> None:
        """Takes the next bytes."""
        self.size += len(piece)
        self._sha256.update(piece)

    def hexdigest(self) -> str:
        """Returns the sha256 of all bytes so far."""
        return self._sha256.hexdigest()


def _write_file(draft: Path, entry: FileEntry, pieces: Pieces, stopped: threading.Event) -> None:
    digest = _Digest()

    def sound() -> Iterator[bytes]:
        for piece in _resumed(entry, pieces, digest, stopped):
            digest.update(piece)
            yield piece

    with translated("write a copy", draft):
        _write(draft / entry.name, sound())
    if digest.hexdigest() != entry.sha256:
        raise SnapshotError(
            f"{entry.name} is damaged: its sha256 is not the one in the manifest",
            "fetch the version again",
        )


def _resumed(
    entry: FileEntry, pieces: Pieces, digest: _Digest, stopped: threading.Event
) -> Iterator[bytes]:
    """Yields the pieces of a file, going on where a download broke off."""
    tries = 0
    while digest.size < entry.size:
        before = digest.size
        try:
            for piece in pieces(entry.name, digest.size):
                if stopped.is_set():
                    raise _stopped(entry.name)
                if digest.size + len(piece) > entry.size:
                    raise SnapshotError(
                        f"{entry.name} has more than its {entry.size:,} bytes",
                        "fetch the version again",
                    )
                yield piece
        except UnavailableError as exc:
            tries = 0 if digest.size > before else tries + 1
            if isinstance(exc, _StoppedError) or tries >= _MOST_TRIES:
                raise
            logger.info("%s broke off at %d: %s", entry.name, digest.size, exc)
        else:
            tries = 0 if digest.size > before else tries + 1
            if tries >= _MOST_TRIES:
                raise SnapshotError(f"{entry.name} is cut", "fetch the version again")
        if digest.size < entry.size and stopped.wait(wait_s(tries)):
            raise _stopped(entry.name)


class _StoppedError(UnavailableError):
    """The service ends while it copies."""


def _stopped(file: str) -> _StoppedError:
    return _StoppedError(f"the copy of {file} was given up", "start it again")


def _write(path: Path, data: Iterator[bytes]) -> None:
    descriptor = DISK.create(path)
    try:
        for piece in data:
            write_all(DISK, descriptor, memoryview(piece))
        DISK.sync(descriptor)
    finally:
        DISK.close(descriptor)
