"""Requests with ids alone, which are most of them, answered by two calls of C++.

The first takes the ids out of the bytes of a request (`native.frames.take_ids`). What is left is
the same for all calls of a client, and is read once; by it the second call is found that hashes,
gathers and writes the reply. Whatever is not so plain, and whatever is wrong, is left to the way
by protobuf (`serving.table`), which gives the same bytes.
"""

from collections.abc import Set
from typing import Any

import numpy as np

from features.regions import FeatureRoute
from native.frames import PlainLookup
from serving.columns import PLAIN_UNITS
from serving.stubs import parameter_pb2 as pb
from storage.snapshot import Snapshot, num_served

# What one caller leaves of its requests is one of these, or a few.
_MOST_KNOWN = 256


class PlainLookups:
    """The lookups of one snapshot by what is left of a request; safe for any number of threads."""

    def __init__(
        self, snapshot: Snapshot, outputs: Set[int], max_lookups: int, max_reply_bytes: int
    ) -> None:
        """`outputs` are those for which rows are sent as they lie."""
        self._snapshot = snapshot
        self._outputs = outputs
        self._max_lookups = max_lookups
        self._max_reply_bytes = max_reply_bytes
        self._routes = {route.name: route for route in snapshot.layout.routes}
        self._known: dict[bytes, PlainLookup | None] = {}

    def answer(self, rest: bytes, asked: pb.LookupRequest, ids: Any, stamp: bytes) -> bytes | None:
        """Returns the LookupReply, None where it takes the other way.

        `rest` is what is left of the request, `asked` the same as a message.
        """
        try:
            lookup = self._known[rest]
        except KeyError:
            lookup = self._lookup(asked)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[rest] = lookup
        return None if lookup is None else lookup.answer(stamp, ids)

    def _lookup(self, asked: pb.LookupRequest) -> PlainLookup | None:
        names = tuple(asked.features) or tuple(self._routes)
        routes = [self._routes[name] for name in names if name in self._routes]
        place = {column.name: i for i, column in enumerate(asked.columns)}
        read = {column for route in routes for column in route.feature.columns}
        fits = (
            len(set(names)) == len(names) == len(routes)
            and len(place) == len(asked.columns)
            and place.keys() == read
            and asked.output in self._outputs
            and all(column.unit in PLAIN_UNITS for column in asked.columns)
            and all(self._is_plain(route) for route in routes)
        )
        if not fits:
            return None
        lookups = [lookup for route in routes for lookup in route.lookups]
        row_bytes = self._snapshot.codec.row_bytes
        tail = pb.LookupReply(
            output=asked.output, row_bytes=row_bytes, width=self._snapshot.layout.width
        )
        return PlainLookup(
            columns=np.array([place[route.feature.column] for route in routes], np.int32),
            num_lookups=np.array([len(route.lookups) for route in routes], np.int32),
            salts=np.array([lookup.salt for lookup in lookups], np.uint64),
            bases=np.array([lookup.base for lookup in lookups], np.int64),
            sizes=np.array([lookup.rows for lookup in lookups], np.int64),
            table=self._snapshot.rows,
            tail=tail.SerializeToString(),
            most_rows=self._max_lookups,
            most_bytes=min(self._max_reply_bytes, asked.max_reply_bytes or self._max_reply_bytes),
        )

    def _is_plain(self, route: FeatureRoute) -> bool:
        """Whether the values of a feature are keys as they stand, all of whose rows are sent."""
        return (
            route.is_hashed
            and route.feature.kind == "categorical"
            and route.feature.derive is None
            and route.key_class == "int"
            and num_served(self._snapshot.codec, len(route.lookups)) == len(route.lookups)
        )
