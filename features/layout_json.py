"""A layout as a JSON object of a manifest, with the vocabularies beside it as tensors.

    hash, hash_seed, width, rows
    regions     [{name, kind, base, rows, width}]; parts where there are several
    features    [{feature, region, key_class, column, salts, vocabulary, edges}]; reader, hot and
                frequent {region, vocabulary} where there are such

Lookups follow from these; their salts and columns are written out all the same, in hexadecimal
(JSON readers elsewhere keep 53 bits), so that another program need not hash, and reading compares.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from features.errors import SnapshotError
from features.hashing import HASH
from features.popular import Chosen
from features.routing import FeatureRoute, Layout, Placement, Region
from features.schema import Feature
from features.statistics import KeyClass

_FIX = "read a manifest that this version of muxtable wrote"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Chosen(_Model):
    region: str
    vocabulary: str

    def read(self, tensors: Mapping[str, NDArray[np.uint64]]) -> Chosen:
        """Returns the values with the keys of their tensor; KeyError where it is missing."""
        return Chosen(region=self.region, keys=tensors[self.vocabulary])


class _Placed(_Model):
    feature: Feature
    region: str
    key_class: KeyClass | None
    column: int
    salts: tuple[str, ...]
    null_salts: tuple[str, ...]
    vocabulary: str | None
    edges: tuple[float, ...] | None
    reader: dict[str, JsonValue] | None = None
    hot: _Chosen | None = None
    frequent: _Chosen | None = None


class _Tree(_Model):
    hash: Literal["mux1"]
    hash_seed: int
    width: int
    rows: int
    regions: tuple[Region, ...]
    features: tuple[_Placed, ...]


def to_json(layout: Layout) -> dict[str, Any]:
    """Returns the JSON object of a layout."""
    tree = {
        "hash": HASH,
        "hash_seed": layout.hash_seed,
        "width": layout.width,
        "rows": layout.rows,
        "regions": [_region(region) for region in layout.regions],
        "features": [_placed(layout, route) for route in layout.routes],
    }
    return json.loads(json.dumps(tree, allow_nan=False))


def vocabularies(layout: Layout) -> dict[str, NDArray[np.uint64]]:
    """Returns the keys of exact regions, of readers and of popular values by tensor name."""
    found = {}
    for route in layout.routes:
        name, keys = _tensor_name(layout, route), _keys(route)
        if name is not None and keys is not None:
            found[name] = keys
        for kind, chosen in _popular(route):
            found[_chosen_name(layout, kind, chosen)] = chosen.keys
    return found


def from_json(tree: dict[str, Any], tensors: Mapping[str, NDArray[np.uint64]]) -> Layout:
    """Reads `to_json` back; raises SnapshotError where anything does not fit together."""
    try:
        parsed = _Tree.model_validate_json(json.dumps(tree))
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        key = ".".join(map(str, error["loc"]))
        raise SnapshotError(
            f"the layout is damaged or foreign: {key}: {error['msg']}", _FIX
        ) from exc
    exact = {region.name for region in parsed.regions if region.kind == "exact"}
    try:
        layout = Layout.assemble(
            width=parsed.width,
            hash_seed=parsed.hash_seed,
            regions=parsed.regions,
            placements=[
                Placement(
                    feature=placed.feature,
                    region=placed.region,
                    key_class=placed.key_class,
                    edges=placed.edges,
                    reader=None if placed.reader is None else dict(placed.reader),
                    dictionary=_dictionary(placed, exact, tensors),
                    hot=None if placed.hot is None else placed.hot.read(tensors),
                    frequent=None if placed.frequent is None else placed.frequent.read(tensors),
                )
                for placed in parsed.features
            ],
            vocabularies={
                placed.region: tensors[placed.vocabulary]
                for placed in parsed.features
                if placed.vocabulary is not None and placed.region in exact
            },
        )
    except KeyError as exc:
        raise SnapshotError(f"the layout's vocabulary {exc} is missing", _FIX) from exc
    except ValueError as exc:
        raise SnapshotError(f"the layout is damaged or foreign: {exc}", _FIX) from exc
    if to_json(layout) != tree:
        raise SnapshotError(
            "the layout is damaged or foreign: its salts, columns or rows are not those of its "
            "features",
            _FIX,
        )
    return layout


def _region(region: Region) -> dict[str, Any]:
    tree = asdict(region)
    if region.parts == 1:
        del tree["parts"]
    return tree


def _placed(layout: Layout, route: FeatureRoute) -> dict[str, Any]:
    tree = {
        "feature": asdict(route.feature),
        "region": route.region,
        "key_class": route.key_class,
        "column": route.column,
        "salts": [f"{lookup.salt:016x}" for lookup in route.lookups],
        "null_salts": [f"{lookup.null_salt:016x}" for lookup in route.lookups],
        "vocabulary": _tensor_name(layout, route),
        "edges": route.edges,
    }
    if route.reader is not None:
        tree["reader"] = route.reader.to_json()
    for kind, chosen in _popular(route):
        name = _chosen_name(layout, kind, chosen)
        tree[kind] = {"region": chosen.region, "vocabulary": name}
    return tree


def _popular(route: FeatureRoute) -> list[tuple[str, Chosen]]:
    """The values that popularity sets apart, by the name of what they are."""
    if route.popular is None:
        return []
    kinds = (("hot", route.popular.hot), ("frequent", route.popular.frequent))
    return [(kind, chosen) for kind, chosen in kinds if chosen is not None]


def _chosen_name(layout: Layout, kind: str, chosen: Chosen) -> str:
    number = [region.name for region in layout.regions].index(chosen.region)
    return f"vocabulary.{kind}.{number}"


def _keys(route: FeatureRoute) -> NDArray[np.uint64] | None:
    if route.vocabulary is not None or route.reader is None:
        return route.vocabulary
    return route.reader.vocabulary


def _tensor_name(layout: Layout, route: FeatureRoute) -> str | None:
    """The name of a vocabulary as a tensor: feature names may hold what no file name can."""
    if _keys(route) is None:
        return None
    if route.vocabulary is not None:
        return f"vocabulary.{[region.name for region in layout.regions].index(route.region)}"
    owner = [each.name for each in layout.routes].index(route.feature.salt_name)
    return f"vocabulary.feature.{owner}"


def _dictionary(
    placed: _Placed, exact: Collection[str], tensors: Mapping[str, NDArray[np.uint64]]
) -> NDArray[np.uint64] | None:
    if placed.vocabulary is None or placed.region in exact:
        return None
    return tensors[placed.vocabulary]
