"""Growing a table without loss, and folding it: a new layout, and its rows made of the old ones.

A value's row is base + mulhi64(h, M) with M rows in its region (ARCHITECTURE.md, "From a value to
its rows"), and mulhi64(h, n M) div n = mulhi64(h, M). So with n times the rows

    grow    row i of a region is a copy of row i div n, with its optimizer's state: every value
            reads the numbers it read before, and values that shared a row may now part
    fold    row i is the mean of the rows whose values now meet in it. Where n does not divide M,
            M div n rows stay, and a row at a border counts in both by the share of its hashes

Only hashed regions change. Exact and hot rows are found through dictionaries and rare ones are
common to all, so they stay; so do importances, which are hashed on their own.

Optimizer state that folds: a first moment is a mean of gradients, and folds as the rows do. Sums
and means of squared gradients (Adagrad, Adam's second moment) fold to their largest: the row goes
on as carefully as the busiest of its rows did, where a mean would give a hot row steps it has long
outgrown, and folding undoes growing exactly, where a sum would not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import PlanError
from features.regions import Region
from features.routing import Layout
from trainer.recorded import moved, placement_of, stacked, vocabularies_of

# read_rows(tensor, first, end) -> rows [end - first, ...] of the old table
ReadRows = Callable[[str, int, int], NDArray[Any]]

# Rows are made in blocks of this many bytes.
_BLOCK_BYTES = 4 << 20
_HASHED = ("shared", "feature")


@dataclass(frozen=True, slots=True)
class Change:
    """How a table is to change: `factor` times the rows, or a `factor`-th of them."""

    kind: Literal["grow", "fold"]
    factor: int

    def rows(self, rows: int) -> int:
        """Returns what so many hashed rows become."""
        return rows * self.factor if self.kind == "grow" else rows // self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Rows of the new table and those of the old one they are made of."""

    base: int
    rows: int
    old_base: int
    old_rows: int


def resized_layout(layout: Layout, change: Change) -> Layout:
    """Returns the layout of the changed table.

    Raises PlanError where the rows cannot change in this way: they are no function of a hash, or
    not of this one.
    """
    _refuse_unhashed(layout, change)
    regions = stacked(_resized(region, layout, change) for region in layout.regions)
    by_name = {region.name: region for region in regions}
    return Layout.assemble(
        width=layout.width,
        hash_seed=layout.hash_seed,
        regions=regions,
        placements=[moved(placement_of(route), layout, by_name) for route in layout.routes],
        vocabularies=vocabularies_of(layout, regions),
    )


class ResizedRows:
    """The rows of a changed table, made of those of the old one, range by range."""

    def __init__(
        self, old: Layout, new: Layout, change: Change, optimizer: str, read_rows: ReadRows
    ) -> None:
        self._pieces = _pieces(old, new)
        self._change = change
        self._optimizer = optimizer
        self._read_rows = read_rows

    def blocks(self, tensor: str, row_bytes: int, first: int, end: int) -> Iterator[NDArray[Any]]:
        """Yields rows [first, end) of a tensor of the table ("weight", "momentum1"...), in blocks
        of a few MiB."""
        step = max(1, _BLOCK_BYTES // (row_bytes * (self._change.factor + 2)))
        for piece in self._pieces:
            low, high = max(first, piece.base), min(end, piece.base + piece.rows)
            for start in range(low, high, step):
                stop = min(start + step, high)
                yield self._block(tensor, piece, start - piece.base, stop - piece.base)

    def _block(self, tensor: str, piece: _Piece, first: int, end: int) -> NDArray[Any]:
        """Returns rows [first, end) of a piece."""

        def old(low: int, high: int) -> NDArray[Any]:
            return self._read_rows(tensor, piece.old_base + low, piece.old_base + high)

        factor = self._change.factor
        if piece.rows == piece.old_rows:
            return old(first, end)
        if self._change.kind == "grow":
            low = first // factor
            copies = np.repeat(old(low, -(-end // factor)), factor, axis=0)
            return copies[first - low * factor : end - low * factor]
        is_largest = tensor != "weight" and not (
            self._optimizer == "adam" and tensor == "momentum1"
        )
        return _folded(old, piece, first, end, is_largest)


def _folded(
    old: Callable[[int, int], NDArray[Any]],
    piece: _Piece,
    first: int,
    end: int,
    is_largest: bool,
) -> NDArray[Any]:
    """Returns rows [first, end) of a folded piece: means of the old ones by their overlap, or
    their largest.

    With M old and m new rows, in units of 1 / (M m) of all hashes, new row i is [i M, i M + M) and
    old row r is [r m, r m + m). i M = low m + start keeps the numbers below 2^63.
    """
    size, unit = piece.old_rows, piece.rows
    whole, rest = divmod(size, unit)
    number = np.arange(first, end)
    low = number * whole + number * rest // unit
    start = number * rest % unit
    block = old(int(low[0]), end * whole - (-end * rest // unit))
    out: NDArray[Any] | None = None
    axes = (slice(None), *[None] * (block.ndim - 1))
    for j in range(whole + 2):
        shared = np.minimum(start + size, (j + 1) * unit) - np.maximum(start, j * unit)
        rows = block[np.minimum(low - low[0] + j, len(block) - 1)]
        weight = np.maximum(shared, 0)[axes]
        if is_largest:
            rows = np.where(weight > 0, rows, -np.inf)
            out = rows if out is None else np.maximum(out, rows)
        else:
            part = rows * (weight / size)
            out = part if out is None else out + part
    assert out is not None  # noqa: S101  a row overlaps at least two places
    return out.astype(block.dtype)


def _pieces(old: Layout, new: Layout) -> list[_Piece]:
    pieces = []
    for before, after in zip(old.regions, new.regions, strict=True):
        for k in range(before.parts):
            (old_base, old_rows), (base, rows) = before.part(k), after.part(k)
            pieces.append(_Piece(base=base, rows=rows, old_base=old_base, old_rows=old_rows))
    return pieces


def _resized(region: Region, layout: Layout, change: Change) -> Region:
    if region.kind not in _HASHED:
        return region
    if change.kind == "grow" and region.rows % region.parts:
        raise PlanError(
            f'region "{region.name}" is cut into {region.parts} tables of {region.rows:,} rows '
            "together, not all alike: copies of their rows would not be tables as equal as can be",
            f"train with table.rows such that they are a multiple of {region.parts}, or start a "
            "new run with the larger budget",
        )
    # Each table folds on its own; the larger ones stay first.
    rows = sum(change.rows(region.part(k)[1]) for k in range(region.parts))
    readers = [route for route in layout.routes if route.region == region.name]
    least = max((len(route.lookups) for route in readers if route.reader is None), default=1)
    if rows < max(least, region.parts):
        raise PlanError(
            f'region "{region.name}" has {region.rows:,} rows, and a {change.factor}-th of them is '
            f"less than the {max(least, region.parts)} that a value reads",
            "fold by less",
        )
    return replace(region, rows=rows)


def _refuse_unhashed(layout: Layout, change: Change) -> None:
    verb = change.kind
    for route in layout.routes:
        kind = None if route.reader is None else route.reader.kind
        if kind == "ring_block":
            raise PlanError(
                f'feature "{route.name}" reads neighbouring numbers of a ring (method robe): with '
                "other rows between them they are no neighbours any more",
                f"{verb} a table of another method, or start a new run with the other budget",
            )
        if kind in ("product", "tensor_train", "program"):
            raise PlanError(
                f'feature "{route.name}" reads rows that no hash of its values finds (method '
                f"{_METHODS[kind]}): there is no larger or smaller table of the same model",
                f"{verb} a table of a hashed method, or start a new run with the other budget",
            )
    if not any(region.kind in _HASHED for region in layout.regions):
        raise PlanError(
            "every feature of this table owns exact rows: none are hashed, so none can change",
            "start a new run; the size of an exact table follows from its vocabularies",
        )


_METHODS = {"product": "qr", "tensor_train": "tt", "program": "dhe"}
