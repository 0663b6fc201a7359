"""From regions and placements to routes: everything derived, and nothing believed before."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.hashing import null_salts, salts
from features.popular import Popular
from features.readers.registry import Site, make_reader
from features.regions import (
    MAX_LOOKUPS,
    FeatureRoute,
    Lookup,
    Placement,
    Region,
    RegionKind,
    exact_rows,
)
from features.schema import LAYOUT_ORDER, Feature

_POOLINGS = {"list": ("mean", "sum"), "sequence": ("mean", "last")}
_RANK: dict[RegionKind, int] = {
    "shared": 0,
    "feature": 0,
    "importance": 1,
    "digits": 1,
    "program": 1,
    "exact": 2,
    "rare": 3,
    "hot": 3,
}


def build_routes(
    *,
    width: int,
    hash_seed: int,
    regions: Sequence[Region],
    placements: Sequence[Placement],
    vocabularies: Mapping[str, NDArray[np.uint64]],
) -> tuple[FeatureRoute, ...]:
    """Derives lookups, salts and columns; raises ValueError where the parts do not fit together."""
    _check_regions(regions, width)
    by_name = {region.name: region for region in regions}
    _check_placements(placements, by_name, vocabularies)
    table_rows = sum(region.rows for region in regions)
    routes: list[FeatureRoute] = []
    column = 0
    for placement in placements:
        region = by_name[placement.region]
        vocabulary = vocabularies.get(placement.region)
        reader = None
        if placement.reader is not None:
            site = Site(
                salt_name=placement.feature.salt_name,
                num_lookups=placement.feature.num_lookups,
                hash_seed=hash_seed,
                base=region.base,
                rows=region.rows,
                width=width,
                table_rows=table_rows,
                vocabulary=vocabulary if placement.dictionary is None else placement.dictionary,
            )
            reader = make_reader(placement.reader, site)
        count = placement.feature.num_lookups if reader is None else reader.num_lookups
        lookups = _lookups(placement.feature, count, region, hash_seed, column)
        route = FeatureRoute(
            feature=placement.feature,
            column=column,
            width_total=width * len(lookups) if reader is None else reader.out_width,
            region=region.name,
            base=region.base,
            region_rows=min((lookup.rows for lookup in lookups), default=region.rows),
            lookups=lookups,
            key_class=placement.key_class,
            vocabulary=vocabulary,
            edges=placement.edges,
            reader=reader,
            popular=_popular(placement, by_name),
        )
        routes.append(route)
        column += route.width_total
    return tuple(routes)


def _popular(placement: Placement, regions: Mapping[str, Region]) -> Popular | None:
    hot, frequent = placement.hot, placement.frequent
    if hot is None and frequent is None:
        return None
    return Popular(
        hot=hot,
        hot_base=0 if hot is None else regions[hot.region].base,
        frequent=frequent,
        common_base=0 if frequent is None else regions[frequent.region].base,
    )


def _lookups(
    feature: Feature, count: int, region: Region, hash_seed: int, column: int
) -> tuple[Lookup, ...]:
    return tuple(
        Lookup(
            feature=feature.name,
            k=k,
            region=region.name,
            base=region.part(k)[0],
            rows=region.part(k)[1],
            salt=int(salt),
            null_salt=int(null_salt),
            column=column + k * region.width,
        )
        for k, (salt, null_salt) in enumerate(
            zip(
                salts(feature.salt_name, count, hash_seed),
                null_salts(feature.salt_name, count, hash_seed),
                strict=True,
            )
        )
    )


def _check_regions(regions: Sequence[Region], width: int) -> None:
    if width < 1:
        raise ValueError(f"rows of width {width}")
    base = 0
    for region in regions:
        if region.rows < 1 or region.base != base or region.width != width:
            raise ValueError(f"region {region.name} does not follow the one before it")
        if not 1 <= region.parts <= min(region.rows, MAX_LOOKUPS):
            raise ValueError(f"region {region.name} of {region.rows} rows has {region.parts} parts")
        base += region.rows
    if len({region.name for region in regions}) < len(regions):
        raise ValueError("two regions have one name")
    ranks = [_RANK[region.kind] for region in regions]
    if ranks != sorted(ranks):
        raise ValueError("the regions are not in order: hashed ones first, then exact ones")


def _check_placements(
    placements: Sequence[Placement],
    regions: Mapping[str, Region],
    vocabularies: Mapping[str, NDArray[np.uint64]],
) -> None:
    order = [LAYOUT_ORDER.index(placement.feature.kind) for placement in placements]
    if order != sorted(order):
        raise ValueError("the features are not in layout order")
    exact = {name for name, region in regions.items() if region.kind == "exact"}
    if set(vocabularies) != exact:
        raise ValueError(f"vocabularies of {sorted(vocabularies)} for exact {sorted(exact)}")
    by_name = {placement.feature.name: placement for placement in placements}
    if len(by_name) < len(placements):
        raise ValueError("two features have one name")
    chosen = {one.region for each in placements for one in (each.hot, each.frequent) if one}
    unread = {name for name, region in regions.items() if region.kind in ("hot", "rare")} - chosen
    if unread:
        raise ValueError(f"the rows of {sorted(unread)} belong to no feature")
    if len({placement.reader is None for placement in placements}) > 1:
        raise ValueError("some features have readers and others have none")
    for placement in placements:
        feature, region = placement.feature, regions.get(placement.region)
        owner = by_name.get(feature.salt_name)
        if owner is None or owner.feature.salt_name != owner.feature.name:
            raise ValueError(f"feature {feature.name} shares rows with no feature of its own")
        if (owner.region, owner.feature.num_lookups) != (placement.region, feature.num_lookups):
            raise ValueError(f"feature {feature.name} does not read the rows it shares")
        if region is None:
            raise ValueError(f"feature {feature.name} is in no region")
        parts = [by_name.get(part) for part in feature.parts]
        if any(part is None or part.feature.kind != "categorical" for part in parts):
            raise ValueError(f"feature {feature.name} crosses what is no categorical feature")
        columns = tuple(by_name[part].feature.columns[0] for part in feature.parts)
        if len(feature.columns) != (len(columns) or 1) or (
            feature.kind == "cross" and feature.columns != columns
        ):
            raise ValueError(f"feature {feature.name} reads {len(feature.columns)} columns")
        if feature.pooling not in _POOLINGS.get(feature.kind, (None,)):
            raise ValueError(f"feature {feature.name} is {feature.kind}, pooled {feature.pooling}")
        _check_popular(placement, owner, regions)
        if not 1 <= feature.num_lookups <= MAX_LOOKUPS:
            raise ValueError(f"feature {feature.name} has {feature.num_lookups} lookups")
        if (feature.kind == "bucketized") != (placement.edges is not None):
            raise ValueError(f"feature {feature.name} is {feature.kind}; edges do not go with that")
        if region.kind == "exact":
            vocabulary = vocabularies[region.name]
            if vocabulary.dtype != np.uint64 or vocabulary.ndim != 1:
                raise ValueError(f"the vocabulary of {region.name} is no vector of uint64")
            if not (vocabulary[1:] > vocabulary[:-1]).all():
                raise ValueError(f"the vocabulary of {region.name} does not rise")
            count = feature.num_lookups
            if placement.reader is not None:
                count = placement.reader.get("count", 0)
            if region.rows != exact_rows(len(vocabulary), count):
                raise ValueError(f"region {region.name} does not fit {len(vocabulary)} values")


def _check_popular(placement: Placement, owner: Placement, regions: Mapping[str, Region]) -> None:
    name, count = placement.feature.name, placement.feature.num_lookups
    for kind, chosen, others in (
        ("hot", placement.hot, owner.hot),
        ("rare", placement.frequent, owner.frequent),
    ):
        if (chosen is None) != (others is None):
            raise ValueError(f"feature {name} has not the {kind} rows of the one it shares")
        if chosen is None or others is None:
            continue
        region = regions.get(chosen.region)
        is_hashed = regions[placement.region].kind in ("shared", "feature")
        if region is None or region.kind != kind or not is_hashed or placement.reader is not None:
            raise ValueError(f"feature {name} has no {kind} rows in {chosen.region}")
        if chosen.region != others.region or not np.array_equal(chosen.keys, others.keys):
            raise ValueError(f"feature {name} has other {kind} rows than the one it shares")
        if chosen.keys.dtype != np.uint64 or chosen.keys.ndim != 1:
            raise ValueError(f"the keys of {chosen.region} are no vector of uint64")
        if not (chosen.keys[1:] > chosen.keys[:-1]).all():
            raise ValueError(f"the keys of {chosen.region} do not rise")
        if region.rows != (len(chosen.keys) * count if kind == "hot" else count - 1):
            raise ValueError(f"region {region.name} does not fit the values of {name}")
