"""A checkpoint as it was saved: whole, or as the rows that changed since a whole one, its base.

Such a delta is a bundle beside its base whose content has

    "delta": {"base": its directory, "digest": sha256 of its manifest,
              "number": 1 for the first delta on that base, "tensors": [names]}

and which holds, for R rows of which n changed:

    delta.rows      u32 or i64 [n]      the numbers of the rows, ascending
    each of `tensors`   [n, ...]        these rows; the others are those of the base, [R, ...]

All other tensors are whole. The base is whole itself, so a chain has one link. Numpy alone is
needed to read one:

    with open_checkpoint(Path("runs/clicks/checkpoints/step-0000001000")) as checkpoint:
        table = checkpoint.tensor("table.weight")
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import SnapshotError
from storage.bundle import Bundle, Verify, open_bundle
from storage.fsops import DISK, Disk
from storage.manifest import FileEntry, Manifest, TensorEntry
from storage.names import is_name
from storage.places import Place

DELTA = "delta"
ROWS = "delta.rows"
# Rows of a delta are read in blocks of that many.
_BLOCK_ROWS = 2**16
_COPY = "take it from a copy, or use another checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a delta says of its base."""

    base: str
    digest: str
    number: int
    """Counts the deltas on that base, from 1."""
    tensors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the object `content["delta"]`."""
        return {
            "base": self.base,
            "digest": self.digest,
            "number": self.number,
            "tensors": list(self.tensors),
        }


def link_in(bundle: Bundle) -> Link | None:
    """Returns what a bundle is a delta on, None for a whole one; SnapshotError if damaged."""
    tree = bundle.content.get(DELTA)
    if tree is None:
        return None
    if isinstance(tree, dict) and tree.keys() == {"base", "digest", "number", "tensors"}:
        base, digest, tensors = tree["base"], tree["digest"], tree["tensors"]
        if (
            isinstance(base, str)
            and is_name("bundle", base)
            and base != bundle.place.name
            and isinstance(digest, str)
            and is_name("digest", digest)
            and type(tree["number"]) is int
            and tree["number"] >= 1
            and isinstance(tensors, list)
            and all(isinstance(name, str) for name in tensors)
        ):
            return Link(base=base, digest=digest, number=tree["number"], tensors=tuple(tensors))
    raise SnapshotError(f'"{bundle.place}" does not say soundly what it is a delta on', _COPY)


def open_checkpoint(
    path: Place,
    verify: Verify = True,
    expected_digest: str | None = None,
    *,
    disk: Disk = DISK,
) -> "Checkpoint":
    """Opens a checkpoint and its base; SnapshotError naming the file that is not as written.

    See `storage.bundle.open_bundle` for `verify` and `expected_digest`.
    """
    bundle = open_bundle(path, verify, expected_digest, disk=disk)
    try:
        link = link_in(bundle)
        if link is None:
            return Checkpoint(bundle)
        try:
            base = open_bundle(path.parent / link.base, verify, link.digest, disk=disk)
        except SnapshotError as exc:
            what = f'"{path}" holds only what changed since "{link.base}": {exc.what}'
            raise SnapshotError(what, exc.fix) from exc
        try:
            return Checkpoint(bundle, base, link.tensors)
        except BaseException:
            base.close()
            raise
    except BaseException:
        bundle.close()
        raise


class Checkpoint:
    """A checkpoint that is open for reading, one with its base; arrays are read-only."""

    def __init__(
        self, bundle: Bundle, base: Bundle | None = None, tensors: tuple[str, ...] = ()
    ) -> None:
        """Use `open_checkpoint`."""
        self.bundle = bundle
        self.base = base
        self._changed = frozenset(tensors)
        if base is not None:
            self._check(base)

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self.bundle.place

    @property
    def path(self) -> Path:
        """The directory it is; only for one in a file system."""
        return self.bundle.path

    @property
    def digest(self) -> str:
        """The sha256 of its manifest."""
        return self.bundle.digest

    @property
    def manifest(self) -> Manifest:
        """Its own manifest, not that of its base."""
        return self.bundle.manifest

    @property
    def content(self) -> dict[str, Any]:
        """The writer's own object."""
        return self.bundle.content

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Its own files."""
        return self.bundle.files

    @property
    def size_bytes(self) -> int:
        """Bytes of its own files without the manifest."""
        return self.bundle.size_bytes

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(name for name in self.bundle.tensor_names if name != ROWS)

    def entry(self, name: str) -> TensorEntry:
        """Returns dtype and shape of a whole tensor; of one that changed, the parts of the base."""
        if self.base is not None and self._is_changed(name):
            return self.base.entry(name)
        return self.bundle.entry(name)

    def tensor(self, name: str) -> np.ndarray:
        """Returns a whole tensor: mapped, or where rows changed put together in memory."""
        if not self._is_changed(name):
            return self.bundle.tensor(name)
        whole = self.read_rows(name, 0, self.entry(name).num_rows)
        whole.flags.writeable = False
        return whole

    def read_rows(
        self, name: str, first: int, end: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Reads rows [first, end) of a tensor into `out`, of any strides, or into a new array."""
        if self.base is None or not self._is_changed(name):
            return self.bundle.read_rows(name, first, end, out)
        out = self.base.read_rows(name, first, end, out)
        for place, rows in self._changed_rows(first, end):
            out[rows - first] = self.bundle.read_rows(name, place, place + len(rows))
        return out

    def changed_rows(self, first: int, end: int) -> NDArray[np.int64]:
        """Returns the rows of [first, end) that differ from the base, ascending."""
        if self.base is None:
            return np.empty(0, np.int64)
        found = [rows for _, rows in self._changed_rows(first, end)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def file(self, name: str) -> bytes:
        """Returns the bytes of a file that is no tensor file."""
        return self.bundle.file(name)

    def check_contents(self, turn: int = 0, turns: int = 1) -> None:
        """Compares every `turns`-th file with its sha256, those of the base too."""
        self.bundle.check_contents(turn, turns)
        if self.base is not None:
            self.base.check_contents(turns - 1 - turn, turns)

    def close(self) -> None:
        """Lets the directories go; arrays that were given out stay valid."""
        self.bundle.close()
        if self.base is not None:
            self.base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_changed(self, name: str) -> bool:
        return name in self._changed

    def _check(self, base: Bundle) -> None:
        """Raises SnapshotError where delta and base do not fit each other."""
        where = f'"{self.place}" and its base "{base.place.name}"'
        if link_in(base) is not None:
            raise SnapshotError(f"{where}: the base is no whole checkpoint", _COPY)
        rows = self.bundle.entry(ROWS)
        if rows.dtype not in ("U32", "I64") or len(rows.shape) != 1:
            raise SnapshotError(f"{where}: {ROWS} is no list of rows", _COPY)
        for name in self._changed:
            ours, theirs = self.bundle.entry(name), base.entry(name)
            fits = ours.dtype == theirs.dtype and ours.shape == (*rows.shape, *theirs.shape[1:])
            if not fits or not theirs.shape or not self._are_inside(theirs.num_rows):
                raise SnapshotError(f'{where} do not fit in tensor "{name}"', _COPY)

    def _are_inside(self, num_rows: int) -> bool:
        """Whether the first and the last row of the delta are rows of the base."""
        count = self.bundle.entry(ROWS).num_rows
        ends = [self.bundle.read_rows(ROWS, at, at + 1)[0] for at in (0, count - 1) if count]
        return all(0 <= row < num_rows for row in ends)

    def _changed_rows(self, first: int, end: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Returns (place in the delta, row numbers), in blocks, of the rows in [first, end)."""
        blocks = []
        last = first - 1
        for start, numbers in self.bundle.parts(ROWS):
            low, high = np.searchsorted(numbers, [first, end]).tolist()
            for at in range(start + low, start + high, _BLOCK_ROWS):
                stop = min(at + _BLOCK_ROWS, start + high)
                rows = self.bundle.read_rows(ROWS, at, stop).astype(np.int64)
                if rows[0] <= last or rows[-1] >= end or (np.diff(rows) <= 0).any():
                    raise SnapshotError(
                        f'"{self.place}": {ROWS} is not in order at place {at:,}', _COPY
                    )
                last = int(rows[-1])
                blocks.append((at, rows))
        return blocks
