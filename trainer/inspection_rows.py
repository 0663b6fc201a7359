"""How the rows of a table are used: which are read at all, how hot the hottest are, how evenly
shards are loaded, and how norms go with it.

Norms: under binary cross entropy nothing takes back what other features push into a row once their
readers are orthogonal, so its squared norm grows with the number of values in it: Theta(N / M)
(arXiv 2305.12102, section 4, figure 2). Growth with the residents is an alarm for collisions only
under that loss; muxtable trains no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.routing import Layout
from sharding.bounds import shard_bounds
from trainer.inspection_collisions import RowCounts

ReadRows = Callable[[int, int], NDArray[np.float32]]
"""Returns rows [first, end) of the table, float32[n, width]."""

TOP_SHARES = (0.001, 0.01, 0.1)
WORLD_SIZES = (2, 4, 8, 16)
# Bytes of rows that are read at a time.
_BLOCK_BYTES = 16 << 20
_CURVE_POINTS = 60
# Up to here each number of residents is a bin of its own.
_SINGLE_BINS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionUse:
    """How one region is used."""

    region: str
    kind: str
    rows: int
    used: int
    """Rows that are read."""
    reads: int
    top_reads: tuple[float, ...]
    """Of the reads, the share of the most read TOP_SHARES of the rows (at least one row)."""
    curve: tuple[tuple[float, float], ...]
    """(share of the rows, hottest first; share of the reads), rising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLoad:
    """What each rank's rows are read, where so many ranks share the table."""

    world_size: int
    largest: float
    """Reads of the busiest shard over those of the mean one."""
    smallest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NormBin:
    """Rows that are read about as often, or hold about as many values."""

    low: int
    """The rows have at least `low` of what is counted and at most `high`."""
    high: int
    mean: float
    """The mean of what is counted."""
    rows: int
    squared: float
    """Mean squared norm."""
    norms: tuple[float, float, float]
    """The 10th, 50th and 90th percentile of the norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """Norms of the rows that features are hashed into; of all rows where there are none."""

    by_reads: tuple[NormBin, ...]
    by_residents: tuple[NormBin, ...]
    mean_squared: float
    initial_squared: float | None
    """Expected when training began; None where the settings are not known."""


def region_uses(layout: Layout, counts: RowCounts) -> tuple[RegionUse, ...]:
    """Returns the use of every region with at least one row read."""
    uses = []
    for region in layout.regions:
        hottest = np.sort(counts.reads[region.base : region.base + region.rows])[::-1]
        total = int(hottest.sum())
        if not total:
            continue
        rising = np.cumsum(hottest) / total
        tops = [max(1, round(share * region.rows)) for share in TOP_SHARES]
        places = np.unique(np.geomspace(1, region.rows, _CURVE_POINTS).astype(np.int64))
        uses.append(
            RegionUse(
                region=region.name,
                kind=region.kind,
                rows=region.rows,
                used=int(np.count_nonzero(hottest)),
                reads=total,
                top_reads=tuple(float(rising[top - 1]) for top in tops),
                curve=tuple(
                    (int(place) / region.rows, float(rising[place - 1])) for place in places
                ),
            )
        )
    return tuple(uses)


def shard_loads(
    layout: Layout, counts: RowCounts, world_sizes: Sequence[int] = WORLD_SIZES
) -> tuple[ShardLoad, ...]:
    """Returns how even the reads of the shards are, for each world size the table has rows for."""
    before = np.concatenate([[0], np.cumsum(counts.reads)])
    loads = []
    for world_size in world_sizes:
        if world_size > layout.rows:
            break
        reads = np.diff(before[np.array(shard_bounds(layout.rows, world_size))])
        mean = reads.mean() or 1.0
        loads.append(
            ShardLoad(
                world_size=world_size,
                largest=float(reads.max() / mean),
                smallest=float(reads.min() / mean),
            )
        )
    return tuple(loads)


def measure_norms(
    layout: Layout, counts: RowCounts, read_rows: ReadRows, init_scale: float | None
) -> Norms:
    """Reads all rows block by block and returns their norms against what falls on them."""
    squared = np.empty(layout.rows, np.float32)
    step = max(1, _BLOCK_BYTES // (4 * layout.width))
    for first in range(0, layout.rows, step):
        rows = read_rows(first, min(first + step, layout.rows))
        squared[first : first + len(rows)] = np.einsum("ij,ij->i", rows, rows)
    hashed = [region for region in layout.regions if region.kind in ("shared", "feature")]
    # Hashed regions are the first of a table.
    end = sum(region.rows for region in hashed) or layout.rows
    return Norms(
        by_reads=_bins(counts.reads[:end], squared[:end], 1),
        by_residents=_bins(counts.residents[:end], squared[:end], _SINGLE_BINS),
        mean_squared=float(squared[:end].mean(dtype=np.float64)),
        # Values start uniform in +-init_scale.
        initial_squared=None if init_scale is None else layout.width * init_scale**2 / 3,
    )


def _bins(
    counted: NDArray[np.int64] | NDArray[np.int32], squared: NDArray[np.float32], singles: int
) -> tuple[NormBin, ...]:
    """Bins of one number each up to `singles`, then of powers of 2."""
    most = int(counted.max(initial=0))
    edges = list(range(min(singles, most) + 1))
    while edges[-1] < most:
        edges.append(max(2 * edges[-1], 1))
    # Value x lies in bin i where edges[i] <= x < edges[i + 1].
    place = np.searchsorted(np.array(edges), counted, side="right") - 1
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place, minlength=len(edges)))
    bins = []
    for low, rows in zip(edges, np.split(order, ends[:-1]), strict=True):
        if not len(rows):
            continue
        own, norms = counted[rows], np.sqrt(squared[rows])
        p10, p50, p90 = np.percentile(norms, (10, 50, 90)).tolist()
        bins.append(
            NormBin(
                low=low,
                high=int(own.max()),
                mean=float(own.mean()),
                rows=len(rows),
                squared=float(squared[rows].mean(dtype=np.float64)),
                norms=(p10, p50, p90),
            )
        )
    return tuple(bins)
