"""Probes: a few values of each feature with the digest of the vectors they must have.

A server that loads a snapshot looks them up before it answers anybody: another hash, another
layout, another decoder, another byte order, and it does not start. The values are made up, as a
hashed feature keeps none; those of an exact feature's vocabulary, and popular ones, are known by
their keys alone.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn
from features.errors import SnapshotError
from features.hashing import cross_keys, key_of
from features.routing import FeatureRoute, Layout
from storage.snapshot_record import Probe, ProbeValue

# vectors(rows int64[n]) -> float32[n, width]
Vectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_INTEGERS: tuple[int, ...] = (0, 1, 2, 12_345, -1, 2**40 + 7, 2**63 - 1)
_STRINGS: tuple[str, ...] = ("", "a", "Paris", "größe", "12345", "a rather long value " * 8)
_MOST_EDGES = 5
_MOST_VOCABULARY = 8
_DAMAGED = "take the snapshot from a copy, or use the muxtable that wrote it"


def make_probes(layout: Layout) -> list[Probe]:
    """Returns the probes of a layout, their digests still empty."""
    return [_probe(layout, route) for route in layout.routes]


def probe_rows(layout: Layout, probes: Sequence[Probe]) -> NDArray[np.int64]:
    """Returns the rows that probes read, ascending, each once."""
    rows = [_rows(layout, probe).reshape(-1) for probe in probes]
    return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def with_digests(layout: Layout, probes: Sequence[Probe], vectors: Vectors) -> list[Probe]:
    """Returns probes with the digests of their vectors."""
    return [
        probe.model_copy(update={"sha256": _digest(_rows(layout, probe), vectors)})
        for probe in probes
    ]


def check_probes(layout: Layout, probes: Sequence[Probe], vectors: Vectors, where: str) -> None:
    """Raises SnapshotError naming the feature whose values have other keys or other vectors."""
    for probe in probes:
        try:
            route = layout[probe.feature]
        except KeyError:
            raise SnapshotError(f"{where}: a probe names no feature of its", _DAMAGED) from None
        for value, key in zip(probe.values, probe.keys, strict=True):
            if value is not None and (key is None or _key(route, value) != int(key, 16)):
                raise SnapshotError(
                    f"{where}: the value {value!r} of {route.name!r} has another key than when the"
                    " snapshot was written",
                    _DAMAGED,
                )
        if _digest(_rows(layout, probe), vectors) != probe.sha256:
            raise SnapshotError(
                f"{where}: values of {route.name!r} have other vectors than when the snapshot was"
                " written",
                _DAMAGED,
            )


def _probe(layout: Layout, route: FeatureRoute) -> Probe:
    values = _values(layout, route)
    keys: list[str | None] = [
        None if value is None else f"{_key(route, value):016x}" for value in values
    ]
    for vocabulary in _vocabularies(route):
        step = max(1, len(vocabulary) // _MOST_VOCABULARY)
        known = [f"{int(key):016x}" for key in vocabulary[::step][:_MOST_VOCABULARY]]
        values += [None] * len(known)
        keys += known
    return Probe(feature=route.name, values=tuple(values), keys=tuple(keys), sha256="")


def _vocabularies(route: FeatureRoute) -> list[NDArray[np.uint64]]:
    """The keys of values that are known to have rows of their own, or lookups of their own."""
    found = [] if route.vocabulary is None else [route.vocabulary]
    if route.popular is not None:
        chosen = (route.popular.hot, route.popular.frequent)
        found += [each.keys for each in chosen if each is not None]
    return [keys for keys in found if len(keys)]


def _values(layout: Layout, route: FeatureRoute) -> list[ProbeValue]:
    if route.feature.kind == "cross":
        classes = [layout[part].key_class for part in route.feature.parts]
        return [
            tuple(_of_class(each)[(turn + place) % 4] for place, each in enumerate(classes))
            for turn in range(4)
        ]
    if route.edges is not None:
        step = max(1, len(route.edges) // _MOST_EDGES)
        edges = [float(edge) for edge in route.edges[::step][:_MOST_EDGES]]
        return [*edges, 0.0, None]
    return [*_of_class(route.key_class), None]


def _of_class(key_class: str | None) -> tuple[int, ...] | tuple[str, ...]:
    return _STRINGS if key_class == "string" else _INTEGERS


def _key(route: FeatureRoute, value: ProbeValue) -> int | None:
    """Returns the key of a value as a caller writes it; None where it is none of the feature."""
    if isinstance(value, tuple):
        if not value or len(value) != len(route.feature.parts):
            return None
        return int(cross_keys([(np.array([key_of(part)], np.uint64), None) for part in value])[0])
    if route.edges is not None and isinstance(value, int | float):
        return int(np.searchsorted(np.asarray(route.edges, np.float64), value, side="right"))
    return key_of(value) if isinstance(value, int | str) else None


def _rows(layout: Layout, probe: Probe) -> NDArray[np.int64]:
    """Returns the rows int64[n, c] of the n values of a probe."""
    keys = np.array([0 if key is None else int(key, 16) for key in probe.keys], np.uint64)
    nulls = np.array([key is None for key in probe.keys], np.uint8)
    return np.ascontiguousarray(layout.rows_of(probe.feature, KeyColumn(keys, nulls)).T)


def _digest(rows: NDArray[np.int64], vectors: Vectors) -> str:
    found = np.ascontiguousarray(vectors(rows.reshape(-1)), "<f4")
    return hashlib.sha256(found.tobytes()).hexdigest()
