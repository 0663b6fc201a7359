"""Which saves are deltas: the rows that changed since the last whole one, in place of all.

After a whole save come at most `limit` deltas, each on that base, so a checkpoint is read from two
bundles at most and a damaged delta harms no other. A delta that would be larger than half of the
table is written whole instead: that is how they are compacted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sharding.ranks import Ranks
from sharding.table import TableEngine
from sharding.touched import Touched
from storage.chain import ROWS, Checkpoint, Link, link_in
from storage.parts import Sharded


def follow(engine: TableEngine, limit: int, checkpoint: Checkpoint | None) -> "Deltas":
    """Returns the deltas of an engine, which from now on tells them the rows it moves.

    `checkpoint` is the one its rows were just restored from.
    """
    deltas = Deltas(limit, engine.first_row, engine.num_local_rows)
    engine.on_touched = deltas.touched.mark
    # Restoring between engines that pad rows in other ways changes the state of every row.
    is_exact = checkpoint is not None and (
        checkpoint.content["table"]["state_width"] == engine.state_width
    )
    if checkpoint is not None and is_exact:
        deltas.resume(checkpoint)
    return deltas


@dataclass(slots=True, kw_only=True)
class _Base:
    name: str
    digest: str
    num_deltas: int


class Deltas:
    """The rows of this rank that moved since the base, and what to save of them.

    Every rank has one and makes the same calls. Feed `touched.mark` with the rows that move.
    """

    def __init__(self, limit: int, first_row: int, num_rows: int) -> None:
        """`num_rows` rows from `first_row` on are this rank's."""
        self.touched = Touched(num_rows)
        self._limit = limit
        self._first_row = first_row
        self._num_rows = num_rows
        self._base: _Base | None = None
        self._next: _Base | None = None
        self._is_base_pending = False

    def resume(self, checkpoint: Checkpoint) -> None:
        """Takes the base of the checkpoint that the rows were just restored from."""
        link = link_in(checkpoint.bundle)
        first, end = self._first_row, self._first_row + self._num_rows
        self.touched.mark(checkpoint.changed_rows(first, end) - first)
        if link is None:
            name, digest = checkpoint.place.name, checkpoint.digest
        else:
            name, digest = link.base, link.digest
        number = 0 if link is None else link.number
        self._base = _Base(name=name, digest=digest, num_deltas=number)

    def choose(
        self, ranks: Ranks, sharded: Mapping[str, Sharded]
    ) -> tuple[Link | None, Mapping[str, Sharded]]:
        """Returns what the next save is a delta on, None for a whole one, and what it holds."""
        self._settle()
        rows = self.touched.rows()
        counts = ranks.counts(len(rows))
        total = sum(counts)
        sizes = [(each.num_rows, each.nbytes_of_row) for each in sharded.values()]
        is_small = 2 * sum(total * size for _, size in sizes) <= sum(n * size for n, size in sizes)
        base = self._base
        if base is None or base.num_deltas >= self._limit or not is_small:
            self.touched.begin()
            self._is_base_pending = True
            return None, sharded
        num_rows = max(each.num_rows for each in sharded.values())
        numbers = (rows + self._first_row).astype(np.uint32 if num_rows <= 2**32 else np.int64)
        place = sum(counts[: ranks.rank])
        picked = {
            name: Sharded(array=each.array, first_row=place, num_rows=total, picked=rows)
            for name, each in sharded.items()
        }
        picked[ROWS] = Sharded(array=numbers, first_row=place, num_rows=total)
        link = Link(
            base=base.name,
            digest=base.digest,
            number=base.num_deltas + 1,
            tensors=tuple(sorted(sharded)),
        )
        return link, picked

    def committed(self, name: str, digest: str) -> None:
        """Notes that the save that `choose` chose for was committed."""
        self._next = _Base(name=name, digest=digest, num_deltas=0)

    def _settle(self) -> None:
        """Takes note of how the last save ended; here, as the rows are not moving now."""
        if self._is_base_pending:
            if self._next is not None:
                self.touched.commit()
                self._base = self._next
            else:
                self.touched.fail()
        elif self._next is not None and self._base is not None:
            self._base.num_deltas += 1
        self._next = None
        self._is_base_pending = False
