"""Two versions side by side: the same ids looked up in both, feature by feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.columns import table_keys
from features.routing import FeatureRoute
from features.scan import scan
from features.schema import FeatureSet
from native.hashing import mix64
from storage.snapshot import Snapshot

if TYPE_CHECKING:
    from features.parquet import Dataset

# Values whose nearest others are looked for.
_QUERIES = 256
_CANDIDATES = 4096

Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDiff:
    """What became of the vectors of one feature."""

    feature: str
    values: int
    cosine: float
    """Mean cosine between the vector before and after."""
    cosine_low: float
    """What one value in a hundred is below."""
    norm_ratio: float
    """Mean length after over mean length before."""
    changed: float
    """Share of the values whose vector is another."""
    nearest_kept: float | None
    """Share of a value's k nearest others that are still among its k nearest."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)


def made_up_ids(snapshot: Snapshot, count: int) -> dict[str, NDArray[np.uint64]]:
    """Returns keys of each feature: random ones for hashed features, else those that own rows."""
    random = mix64(np.arange(1, count + 1, dtype=np.uint64))
    return {route.name: _known(route, count, random) for route in snapshot.layout.routes}


def ids_in(
    dataset: Dataset, snapshot: Snapshot, count: int, on_rows: Callable[[int], None]
) -> dict[str, NDArray[np.uint64]]:
    """Returns at most `count` keys of each feature that stand in a dataset, null left out."""
    layout = snapshot.layout
    feature_set = FeatureSet(features=tuple(route.feature for route in layout.routes))
    dataset.check(feature_set, layout.key_classes)
    seen = {route.name: np.empty(0, np.uint64) for route in layout.routes}
    for step in scan(dataset, feature_set.feature_columns):
        columns = table_keys(
            step.table, feature_set, step.where, edges=layout.edges, key_classes=layout.key_classes
        )
        for name, column in columns.items():
            if len(seen[name]) < count:
                keys = column.keys if column.nulls is None else column.keys[column.nulls == 0]
                new = np.setdiff1d(keys, seen[name])
                seen[name] = np.append(seen[name], new[: count - len(seen[name])])
        on_rows(step.table.num_rows)
    return seen


def compare(
    before: Snapshot, after: Snapshot, ids: dict[str, NDArray[np.uint64]], nearest: int
) -> list[FeatureDiff]:
    """Returns the difference of every feature that both have, with vectors of one length."""
    others = {route.name: route for route in after.layout.routes}
    return [
        _compare(route.name, _vectors(before, route, keys), _vectors(after, other, keys), nearest)
        for route in before.layout.routes
        if (other := others.get(route.name)) is not None
        and other.width_total == route.width_total
        and len(keys := ids[route.name])
    ]


def _known(route: FeatureRoute, count: int, random: NDArray[np.uint64]) -> NDArray[np.uint64]:
    if route.edges is not None:
        return np.arange(len(route.edges) + 1, dtype=np.uint64)[:count]
    if route.vocabulary is not None and len(route.vocabulary):
        return route.vocabulary[:count]
    return random


def _vectors(snapshot: Snapshot, route: FeatureRoute, keys: NDArray[np.uint64]) -> Vectors:
    """Returns the vectors [n, lookups x width] of single values."""
    offsets = np.arange(len(keys) + 1) if route.feature.is_bag else None
    return snapshot.lookup(route.name, KeyColumn(keys, None, offsets)).astype(np.float64)


def _compare(name: str, before: Vectors, after: Vectors, nearest: int) -> FeatureDiff:
    lengths = [np.linalg.norm(each, axis=1) for each in (before, after)]
    product = lengths[0] * lengths[1]
    dots = np.einsum("ij,ij->i", before, after)
    # Two vectors of zeros are the same; one of them alone is as far as can be.
    cosine = np.where(lengths[0] + lengths[1] == 0, 1.0, 0.0)
    np.divide(dots, product, out=cosine, where=product > 0)
    norm = float(lengths[0].mean())
    return FeatureDiff(
        feature=name,
        values=len(before),
        cosine=float(cosine.mean()),
        cosine_low=float(np.quantile(cosine, 0.01)),
        norm_ratio=float(lengths[1].mean()) / norm if norm else 1.0,
        changed=float((before != after).any(axis=1).mean()),
        nearest_kept=_nearest_kept(before, after, nearest),
    )


def _nearest_kept(before: Vectors, after: Vectors, nearest: int) -> float | None:
    picked = np.arange(0, len(before), max(1, len(before) // _CANDIDATES))[:_CANDIDATES]
    if len(picked) <= nearest:
        return None
    sets = [_nearest(each[picked], nearest) for each in (before, after)]
    kept = [len(np.intersect1d(a, b)) for a, b in zip(*sets, strict=True)]
    return float(np.mean(kept)) / nearest


def _nearest(vectors: Vectors, nearest: int) -> NDArray[np.int64]:
    """Returns for each query the numbers of its nearest others by cosine, those equally near in
    their order."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    queries = np.arange(0, len(unit), max(1, len(unit) // _QUERIES))[:_QUERIES]
    # Rounded: values in the same rows are equally near, whatever the last digit says.
    near = np.round(unit[queries] @ unit.T, 9)
    near[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-near, axis=1, kind="stable")[:, :nearest]
