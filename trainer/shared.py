"""A directory of checkpoints that ranks share: they see the same one, and open it as one."""

import json
import secrets
from contextlib import suppress
from pathlib import Path

from features.errors import FirstRankError, SnapshotError
from sharding.ranks import Ranks
from storage.bundle import Verify
from storage.chain import Checkpoint, open_checkpoint
from storage.fsops import Disk, remove_quietly, replace_file, translated
from storage.names import temporary_path
from trainer.agreement import from_first, together
from trainer.latest import find_latest

_NOT_SHARED = "put run.dir on a file system that the machines of all ranks share"


def check_shared(ranks: Ranks, directory: Path, attempt: str, disk: Disk) -> None:
    """Raises SnapshotError on every rank where one does not see the directory as rank 0 does.

    Rank 0 puts a file there for a moment, and the others read it.
    """
    if ranks.world_size == 1:
        return
    word = secrets.token_hex(8)

    def put() -> str:
        path = temporary_path(directory, "probe", attempt)
        with translated("write a probe", directory):
            replace_file(disk, path, word.encode(), temporary_path(directory, "probe", attempt))
        return json.dumps([path.name, word])

    name, expected = json.loads(from_first(ranks, put))
    try:
        together(ranks, lambda: _look(directory / name, expected))
    finally:
        if ranks.is_first:
            remove_quietly(disk, directory / name)


def open_together(
    ranks: Ranks, directory: Path, verify: Verify, fallback: bool, disk: Disk
) -> Checkpoint | None:
    """Returns on every rank the checkpoint that rank 0 finds as `latest_checkpoint` does.

    With `verify` True each rank compares its share of the files with their sha256; what it reads
    is compared by crc32. A refusal by any rank is one by all.
    """

    def open_one(path: Path, digest: str | None) -> Checkpoint:
        _tell(ranks, "open", [path.name, digest])
        return open_share(path, digest)

    def open_share(path: Path, digest: str | None) -> Checkpoint:
        def work() -> Checkpoint:
            checkpoint = open_checkpoint(path, verify and "lazy", digest, disk=disk)
            if verify is True:
                checkpoint.check_contents(ranks.rank, ranks.world_size)
            return checkpoint

        return together(ranks, work)

    if ranks.is_first:
        try:
            found = find_latest(directory, open_one, fallback=fallback, disk=disk)
        except SnapshotError as exc:
            _tell(ranks, "refused", [exc.what, exc.fix])
            raise
        _tell(ranks, "found", found is not None)
        return found
    checkpoint: Checkpoint | None = None
    while True:
        ((order, value),) = json.loads(ranks.share(None)).items()
        if order == "refused":
            what, fix = value
            raise FirstRankError(what, fix, SnapshotError.exit_code)
        if order == "found":
            return checkpoint if value else None
        name, digest = value
        # A refusal is heard by rank 0 as well, which decides what comes next.
        with suppress(FirstRankError):
            checkpoint = open_share(directory / name, digest)


def _tell(ranks: Ranks, order: str, value: object) -> None:
    ranks.share(json.dumps({order: value}).encode())


def _look(path: Path, expected: str) -> None:
    try:
        found = path.read_text()
    except OSError as exc:
        raise SnapshotError(
            f'"{path.parent}" is not the directory that rank 0 writes to: {exc.strerror}',
            _NOT_SHARED,
        ) from exc
    if found != expected:
        raise SnapshotError(
            f'"{path.parent}" does not show what rank 0 wrote there a moment ago', _NOT_SHARED
        )
