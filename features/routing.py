"""Which rows of the table a value owns: regions, lookups and the layout that routes keys to rows.

    keys u64[F, B] --salt(feature, k), mulhi--> rows i64[L, B]   one native call for all hashed ones
                   --vocabulary-------------->                   one for each exact feature

Letters: B samples, F univalent features, L univalent lookups, c lookups of one feature, n values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.batches import Bag, KeyBatch, KeyColumn, RowBatch
from features.regions import FeatureRoute, Lookup, Placement, Region
from features.router import Router
from features.routes import build_routes
from features.statistics import KeyClass

__all__ = [
    "Bag",
    "FeatureRoute",
    "KeyBatch",
    "KeyColumn",
    "Layout",
    "Lookup",
    "Placement",
    "Region",
    "RowBatch",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """The rows of a table and the way of every feature's values to them.

    Features read rows side by side (`route`, one gather), or all of them have readers.
    """

    rows: int
    width: int
    hash_seed: int
    regions: tuple[Region, ...]
    """In the order of their rows, without gaps: hashed ones first, then exact ones, those by
    popularity last."""
    routes: tuple[FeatureRoute, ...]
    """In the order of the embedding's columns."""
    _router: Router = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_router", Router.of(self.routes))

    @classmethod
    def assemble(
        cls,
        *,
        width: int,
        hash_seed: int,
        regions: Sequence[Region],
        placements: Sequence[Placement],
        vocabularies: Mapping[str, NDArray[np.uint64]],
    ) -> Layout:
        """Derives lookups, salts and columns; `vocabularies` are those of the exact regions.

        Raises ValueError where the parts do not fit together.
        """
        routes = build_routes(
            width=width,
            hash_seed=hash_seed,
            regions=regions,
            placements=placements,
            vocabularies=vocabularies,
        )
        return cls(
            rows=sum(region.rows for region in regions),
            width=width,
            hash_seed=hash_seed,
            regions=tuple(regions),
            routes=routes,
        )

    @property
    def out_width(self) -> int:
        """Columns of the embedding of all features."""
        return sum(route.width_total for route in self.routes)

    @property
    def univalent(self) -> tuple[FeatureRoute, ...]:
        """The routes of features with one value a sample, in order."""
        return tuple(route for route in self.routes if not route.feature.is_bag)

    @property
    def bags(self) -> tuple[FeatureRoute, ...]:
        """The routes of lists and sequences, in order."""
        return tuple(route for route in self.routes if route.feature.is_bag)

    @property
    def key_classes(self) -> dict[str, KeyClass | None]:
        """The class of keys each feature was trained on, by name, for `features.columns`."""
        return {route.name: route.key_class for route in self.routes}

    @property
    def edges(self) -> dict[str, tuple[float, ...]]:
        """The quantile edges of the bucketized features, by name, for `features.columns`."""
        return {route.name: route.edges for route in self.routes if route.edges is not None}

    def __getitem__(self, name: str) -> FeatureRoute:
        """The route of the feature of that name; KeyError if there is none."""
        for route in self.routes:
            if route.name == name:
                return route
        raise KeyError(name)

    def region_of(self, row: int) -> Region:
        """The region that a row is in; IndexError if it is in none."""
        ends = np.cumsum([region.rows for region in self.regions])
        return self.regions[int(np.searchsorted(ends, row, side="right"))]

    @property
    def has_readers(self) -> bool:
        """Whether readers make the vectors: those of all features, or of none."""
        return any(route.reader is not None for route in self.routes)

    @property
    def unit_width(self) -> int:
        """Columns that the vector of every feature is a multiple of: those of a row, or where
        readers make the vectors, the most that hold for all."""
        if not self.has_readers:
            return self.width
        return math.gcd(*(route.width_total for route in self.routes))

    def route(self, batch: KeyBatch, threads: int = 1) -> RowBatch:
        """Returns the rows of a batch's keys."""
        if self.has_readers:
            return self._router.read(batch, self.width, threads)
        return self._router.route(batch, self.out_width, threads)

    def values_of(self, name: str, column: KeyColumn, threads: int = 1) -> RowBatch:
        """Returns a batch of one feature whose samples are its keys: lists unpooled."""
        route = self[name]
        if route.reader is not None:
            return self._router.read_values(route, column, self.width, threads)
        rows = self._router.rows_of(route, column, threads)
        columns = np.arange(len(rows), dtype=np.int64) * self.width
        return RowBatch(rows.shape[1], rows, columns, (), route.width_total)

    def rows_of(self, name: str, column: KeyColumn, threads: int = 1) -> NDArray[np.int64]:
        """Returns the rows int64[c, n] of one feature's keys, lists unpooled.

        Those of a network are [c, 1], the same for all.
        """
        return self._router.rows_of(self[name], column, threads)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for manifests; `vocabularies` hold what is too large for one."""
        from features.layout_json import to_json

        return to_json(self)

    def vocabularies(self) -> dict[str, NDArray[np.uint64]]:
        """The vocabularies and dictionaries under the names that `to_json` gives them."""
        from features.layout_json import vocabularies

        return vocabularies(self)

    @staticmethod
    def from_json(tree: dict[str, Any], vocabularies: Mapping[str, NDArray[np.uint64]]) -> Layout:
        """Reads `to_json` back; raises SnapshotError where anything does not fit together."""
        from features.layout_json import from_json

        return from_json(tree, vocabularies)
