"""The parts of a layout: regions of rows, and the route of every feature into its region.

rows of the table      columns of the embedding
shared                 categorical, list, sequence, cross, bucketized
feature ...            (each in declared order, lookups inside)
importance, digits, program ...
exact ...
rare ..., hot ...              by popularity: see `features.popular`

Regions whose rows are hashed come first: they grow together with the table.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from features.popular import Chosen, Popular
from features.readers.base import Reader
from features.schema import Feature
from features.statistics import KeyClass

RegionKind = Literal["shared", "feature", "importance", "digits", "program", "exact", "rare", "hot"]
MAX_LOOKUPS = 64  # the bound of the setting, held against manifests too


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
    hot: Chosen | None = None
    """Values with rows of their own in a region of the kind "hot"."""
    frequent: Chosen | None = None
    """Values that read all lookups, and the region of the kind "rare" that others read."""


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
    popular: Popular | None = None
    """Where some values read other rows than the hash functions say."""

    @property
    def is_hashed(self) -> bool:
        """Whether its rows are those that the hash functions of its lookups say, for any value."""
        return self.vocabulary is None and self.reader is None and self.popular is None

    @property
    def name(self) -> str:
        """The feature's name."""
        return self.feature.name


def exact_rows(num_values: int, num_lookups: int) -> int:
    """The rows of an exact feature: of its values, of the unseen one, and of null."""
    return (num_values + 2) * num_lookups
