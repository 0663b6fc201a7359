"""The parts of a layout: regions of rows, and the route of every feature into its region.

rows of the table      columns of the embedding
shared                 categorical, list, sequence, cross, bucketized
feature ...            (each in declared order, lookups inside)
importance, digits, program ...
exact ...

Regions whose rows are hashed come first: they grow together with the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from features.hashing import null_salts, salts
from features.readers.base import Reader
from features.readers.registry import Site, make_reader
from features.schema import LAYOUT_ORDER, Feature
from features.statistics import KeyClass

RegionKind = Literal["shared", "feature", "importance", "digits", "program", "exact"]
MAX_LOOKUPS = 64  # the bound of the setting, held against manifests too
_POOLINGS = {"list": ("mean", "sum"), "sequence": ("mean", "last")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A contiguous range of rows."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    name: str
    kind: RegionKind
    base: int
    rows: int
    width: int
    parts: int = 1
    """Tables it consists of, as equal as can be, the larger ones first: lookup k reads table
    k mod parts."""

    def part(self, k: int) -> tuple[int, int]:
        """Returns the first row and the rows of the table that lookup k reads."""
        place = k % self.parts
        size, larger = divmod(self.rows, self.parts)
        return self.base + place * size + min(place, larger), size + (place < larger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One row read for each value: (feature, k). Salts mean nothing in an exact region."""

    feature: str
    k: int
    region: str
    base: int
    rows: int
    salt: int
    null_salt: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a layout is told of a feature: the region of its rows and what training saw of it."""

    feature: Feature
    region: str
    key_class: KeyClass | None
    edges: tuple[float, ...] | None = None
    """Bucketized features: the quantile edges."""
    reader: dict[str, Any] | None = None
    """How values read the table, as `features.readers.registry` takes it; None lays the rows of
    the lookups side by side."""
    dictionary: NDArray[np.uint64] | None = None
    """The sorted keys that a reader of digits numbers; those of exact regions are the region's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureRoute:
    """How one feature's keys become rows and where they stand in the embedding."""

    feature: Feature
    column: int
    """First column of the feature in the embedding."""
    width_total: int
    """Columns of the feature: lookups x width, or what its reader makes."""
    region: str
    """The region its lookups read."""
    base: int
    """The first row of its region."""
    region_rows: int
    """The rows of its region, or of the smallest table there that a lookup reads."""
    lookups: tuple[Lookup, ...]
    """Its hash functions into the region; none where its rows follow from a dictionary or are a
    network's."""
    key_class: KeyClass | None
    vocabulary: NDArray[np.uint64] | None
    """Exact features: their sorted keys."""
    edges: tuple[float, ...] | None
    """Bucketized features: the quantile edges."""
    reader: Reader | None = None
    """What makes its vectors; None where the rows of its lookups stand side by side."""

    @property
    def name(self) -> str:
        """The feature's name."""
        return self.feature.name


_RANK: dict[RegionKind, int] = {
    "shared": 0,
    "feature": 0,
    "importance": 1,
    "digits": 1,
    "program": 1,
    "exact": 2,
}


def exact_rows(num_values: int, num_lookups: int) -> int:
    """The rows of an exact feature: of its values, of the unseen one, and of null."""
    return (num_values + 2) * num_lookups


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
        )
        routes.append(route)
        column += route.width_total
    return tuple(routes)


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
        raise ValueError("the regions are not in order: hashed ones first, exact ones last")


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
