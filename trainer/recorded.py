"""A recorded layout taken apart, to make another one of it: its features as they were placed.

A layout follows from settings and profile only when a table is new. A table that has grown, or that
carries on for an edited job, keeps what a checkpoint recorded: regions change their place or their
size, and each feature goes on reading the region it read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.regions import FeatureRoute, Placement, Region
from features.routing import Layout
from features.schema import Feature


def placement_of(route: FeatureRoute, feature: Feature | None = None) -> Placement:
    """Returns what a layout was told of a feature; `feature` stands in its place where given."""
    reader = route.reader
    popular = route.popular
    return Placement(
        feature=route.feature if feature is None else feature,
        region=route.region,
        key_class=route.key_class,
        edges=route.edges,
        reader=None if reader is None else reader.to_json(),
        # The dictionary of an exact region is the region's own.
        dictionary=None if reader is None or route.vocabulary is not None else reader.vocabulary,
        hot=None if popular is None else popular.hot,
        frequent=None if popular is None else popular.frequent,
    )


def vocabularies_of(layout: Layout, regions: Iterable[Region]) -> dict[str, NDArray[np.uint64]]:
    """Returns the vocabularies of those of `regions` that are exact in the layout, by name."""
    known = {r.region: r.vocabulary for r in layout.routes if r.vocabulary is not None}
    return {region.name: known[region.name] for region in regions if region.name in known}


def stacked(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Returns regions one behind the other, from row 0 on."""
    base, placed = 0, []
    for region in regions:
        placed.append(replace(region, base=base))
        base += region.rows
    return tuple(placed)


def moved(placement: Placement, old: Layout, regions: Mapping[str, Region]) -> Placement:
    """Returns a placement of `old` whose reader finds rows beside its own region where they now
    are, by the region's name."""
    tree = placement.reader
    if tree is None or "base" not in tree:
        return placement
    beside = next(region for region in old.regions if region.base == tree["base"])
    now: dict[str, Any] = {**tree, "base": regions[beside.name].base}
    return replace(placement, reader=now)
