"""The angles between what the tower reads of a row for one feature and for another.

A reader is described by G = mean of g g^T [w, w], where g are the directions in which it reads the
w columns of a row: what stands in the first layers (`trainer.inspection_layers`), or the gradients
of the logit over data (`trainer.inspection_gradients`). An update that comes to a row from lookup j
goes along directions of reader j, and reader i sees of it what they have in common:

    angle           arccos sqrt( tr(G_i G_j) / (tr G_i tr G_j) ): the root mean square of the cosine
                    between a direction of i and one of j, drawn by their squared lengths; 90
                    degrees where nothing passes. Readers that read all directions alike have
                    arccos(1 / sqrt(w)), whatever they read them for.
    main direction  the angle between the lines along which i and j read most (leading eigenvectors)

With one direction each, both are the angle between the theta of arXiv 2305.12102, section 4. Pairs
that share no rows, and rows of exact features, have nothing to disturb and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.readers.weighted import WeightedReader
from features.routing import Layout

Key = tuple[str, int]
"""Feature and number of a lookup."""
Squares = Mapping[Key, NDArray[np.float64]]
"""G [w, w] of every reader, or a multiple of it."""

MOST_PAIRS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the row of a lookup stands in the embedding, as it is or times a number."""

    column: int
    width: int
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two lookups that share rows; degrees."""

    first: Key
    second: Key
    angle: float
    main_direction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Angles:
    """The angles of a model, in degrees."""

    of: str
    """What the directions are."""
    readers: tuple[Key, ...]
    num_pairs: int
    mean: float
    mean_main_direction: float
    uniform: float
    """`mean` of readers that read all directions alike."""
    nearest: tuple[Pair, ...]
    """The pairs with the smallest angles."""
    matrix: tuple[tuple[float | None, ...], ...]
    """Of `readers` with each other; None where they share no rows."""


def places(layout: Layout) -> dict[Key, Place] | str:
    """Returns where the rows of hashed features enter the tower, or a sentence saying that and why
    none do."""
    found: dict[Key, Place] = {}
    for route in layout.routes:
        if route.vocabulary is not None:
            continue
        if route.reader is None:
            for lookup in route.lookups:
                found[route.name, lookup.k] = Place(
                    column=lookup.column, width=layout.width, region=route.region
                )
        elif isinstance(route.reader, WeightedReader):
            found[route.name, 0] = Place(
                column=route.column, width=route.width_total, region=route.region
            )
    regions = [place.region for place in found.values()]
    if len(set(regions)) < len(regions):
        return found
    if layout.has_readers and not found:
        return "Its method makes vectors of rows in a way that no angle between readers describes."
    return "No two lookups share rows."


def angles_between(readers: Mapping[Key, Place], squares: Squares, of: str) -> Angles:
    """Returns the angles of readers of which at least two share rows."""
    keys = tuple(squares)
    shares = np.array([[readers[a].region == readers[b].region for b in keys] for a in keys])
    np.fill_diagonal(shares, False)
    stacked = np.stack(list(squares.values())).astype(np.float64)
    # A layer that is all zeros reads nothing; it stays at 90 degrees.
    sizes = np.maximum(np.trace(stacked, axis1=1, axis2=2), 1e-300)
    flat = stacked.reshape(len(keys), -1) / sizes[:, None]
    angles = _degrees(np.sqrt(np.maximum(flat @ flat.T, 0)))
    main = np.linalg.eigh(stacked)[1][:, :, -1]
    main_angles = _degrees(np.abs(main @ main.T))
    first, second = np.nonzero(np.triu(shares))
    found = angles[first, second]
    nearest = np.argsort(found, kind="stable")[:MOST_PAIRS]
    return Angles(
        of=of,
        readers=keys,
        num_pairs=len(found),
        mean=float(found.mean()),
        mean_main_direction=float(main_angles[first, second].mean()),
        uniform=math.degrees(math.acos(1 / math.sqrt(stacked.shape[1]))),
        nearest=tuple(
            Pair(
                first=keys[first[i]],
                second=keys[second[i]],
                angle=float(found[i]),
                main_direction=float(main_angles[first[i], second[i]]),
            )
            for i in nearest
        ),
        matrix=tuple(
            tuple(float(angle) if shared else None for angle, shared in zip(*row, strict=True))
            for row in zip(angles, shares, strict=True)
        ),
    )


def _degrees(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.degrees(np.arccos(np.clip(cosines, 0, 1)))
