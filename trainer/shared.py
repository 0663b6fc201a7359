"""A directory of checkpoints that ranks share: they see the same one, and open it as one."""

import json
import secrets
from contextlib import suppress

from features.errors import FirstRankError, SnapshotError
from sharding.ranks import Ranks
from storage.bundle import Verify
from storage.chain import Checkpoint, open_checkpoint
from storage.depot import Depot
from storage.fsops import Disk
from storage.places import Place
from trainer.latest import find_latest

_NOT_SHARED = (
    "put run.dir on a file system that the machines of all ranks share, or set run.checkpoints to"
    " s3://bucket/prefix"
)


def check_shared(ranks: Ranks, depot: Depot, attempt: str) -> None:
    """Raises SnapshotError on every rank where one does not see the depot as rank 0 does.

    Rank 0 leaves a word there for a moment, and the others read it.
    """
    if ranks.world_size == 1:
        return
    word = secrets.token_hex(8)
    told = ranks.from_first(lambda: json.dumps([depot.put_word(word, attempt), word]))
    label, expected = json.loads(told)
    try:
        ranks.together(lambda: _look(depot, label, expected))
    finally:
        if ranks.is_first:
            depot.drop_word(label)


def open_together(
    ranks: Ranks, directory: Place, verify: Verify, fallback: bool, disk: Disk
) -> Checkpoint | None:
    """Returns on every rank the checkpoint that rank 0 finds as `latest_checkpoint` does.

    With `verify` True each rank compares its share of the files with their sha256; what it reads
    is compared by crc32. A refusal by any rank is one by all.
    """

    def open_one(path: Place, digest: str | None) -> Checkpoint:
        _tell(ranks, "open", [path.name, digest])
        return open_share(path, digest)

    def open_share(path: Place, digest: str | None) -> Checkpoint:
        def work() -> Checkpoint:
            checkpoint = open_checkpoint(path, verify and "lazy", digest, disk=disk)
            if verify is True:
                checkpoint.check_contents(ranks.rank, ranks.world_size)
            return checkpoint

        return ranks.together(work)

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


def _look(depot: Depot, label: str, expected: str) -> None:
    if depot.word(label) != expected:
        raise SnapshotError(f'"{depot.place}" is not the place that rank 0 writes to', _NOT_SHARED)
