"""A version made ready to answer: keys to rows, and rows into the bytes of a reply.

Letters: F features asked for, n values of one, c lookups of a value, B samples. A reply has one
block [n, c] of rows for each feature; blocks follow each other, and neighbours are gathered by one
call of a kernel. Where a reader makes the vectors, they travel as float32 in the place of the
codec's own bytes, since nobody else could combine the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features import ragged
from features.batches import KeyColumn
from features.errors import DataError, LimitError, NotFoundError
from features.regions import FeatureRoute
from native import codecs, kernels
from serving.columns import WHERE, num_samples, num_values, read_keys
from serving.frame import reply_frame
from serving.plain import PlainLookups
from serving.stubs import parameter_pb2 as pb
from storage.codecs.base import Codec
from storage.codecs.registry import codec_named
from storage.snapshot import Snapshot, num_served
from storage.vectors import combined, pool

_NO_ROWS = np.empty((0, 0), np.int64)
_MOST_PLANS = 256

# Codecs whose rows are numbers as they stand, little-endian.
_SAME = {"float32": (pb.OUTPUT_FLOAT32,), "float16": (pb.OUTPUT_FLOAT16,)}

Rows = NDArray[np.int64]
Buffer = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may ask for."""

    max_lookups: int = 1 << 20
    max_request_bytes: int = 16 << 20
    max_reply_bytes: int = 64 << 20
    """Of rows; the rest of a reply is small."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """All that is the same for every call that asks for the same features."""

    routes: tuple[FeatureRoute, ...]
    columns: frozenset[str]
    num_lookups: tuple[int, ...]
    """Rows read for each value of a feature, those that a prefix codec leaves out not counted."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Block:
    """One feature's part of a reply."""

    route: FeatureRoute
    rows: Rows
    """[c, n]; none where there are vectors."""
    count: int
    """Vectors: n, or B where lists are pooled."""
    pooled: Rows | None = None
    """The offsets of the lists that are pooled."""
    offsets: Rows | None = None
    """The offsets of the lists that are not."""
    vectors: NDArray[np.float32] | None = None
    """What a reader made of the values [n, D], lists unpooled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Which version answers."""

    version: str
    digest: bytes
    counter: int
    on_wire: bytes = field(init=False, compare=False, repr=False)
    """It as the first field of a reply."""

    def __post_init__(self) -> None:
        reply = pb.LookupReply(stamp=self.message())
        object.__setattr__(self, "on_wire", reply.SerializeToString())

    def message(self) -> pb.Stamp:
        """Returns it as a message."""
        return pb.Stamp(version=self.version, digest=self.digest, counter=self.counter)


class Table:
    """Answers lookups out of one snapshot; safe for any number of threads."""

    def __init__(self, snapshot: Snapshot, limits: Limits) -> None:
        self.snapshot = snapshot
        self._limits = limits
        self._routes = {route.name: route for route in snapshot.layout.routes}
        self._plans: dict[tuple[str, ...], _Plan] = {}
        layout = snapshot.layout
        self.codec: Codec = snapshot.codec
        """What a reply of `OUTPUT_CODEC` is decoded by."""
        if layout.has_readers:
            self.codec = codec_named("float32")(layout.unit_width)
        self._items = _items(self.codec)
        self._row_items = _items(snapshot.codec)
        # Outputs for which the rows are sent as they lie.
        self._as_stored = frozenset({pb.OUTPUT_CODEC, *_SAME.get(snapshot.codec.name, ())})
        self.plain = PlainLookups(
            snapshot, self._as_stored, limits.max_lookups, limits.max_reply_bytes
        )
        """Answers requests with ids alone."""

    def lookup(self, request: pb.LookupRequest, stamp: Stamp) -> bytes:
        """Returns the LookupReply of a request.

        Raises NotFoundError for a feature there is not, DataError for columns that do not fit,
        LimitError, before anything is looked up, for a request or reply that is too large.
        """
        plan = self._plan(tuple(request.features))
        columns = _by_name(request.columns, plan)
        output = request.output
        if request.unpooled is False and output == pb.OUTPUT_CODEC:
            _refuse_pooled_codes(plan)
        self._check_limits(plan, columns, request)
        blocks = [
            self._block(route, columns, count, request.unpooled)
            for route, count in zip(plan.routes, plan.num_lookups, strict=True)
        ]
        return self._written(plan, blocks, output, stamp)

    def lookup_rows(self, request: pb.LookupRowsRequest, stamp: Stamp) -> bytes:
        """Returns the LookupReply with rows of these numbers; DataError where there are not."""
        if len(request.rows) % 8:
            raise DataError(f"{WHERE}: rows has {len(request.rows)} bytes", "send int64 numbers")
        rows = np.frombuffer(request.rows, np.int64)
        item = _item(self._row_items, request.output)
        self._check_size(len(rows), len(rows) * item, request)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.snapshot.layout.rows):
            bad = rows[(rows < 0) | (rows >= self.snapshot.layout.rows)][0]
            raise DataError(
                f"{WHERE}: there is no row {bad}",
                f"the table has {self.snapshot.layout.rows:,} rows",
            )
        reply = pb.LookupReply(
            stamp=stamp.message(),
            output=request.output,
            row_bytes=item,
            width=self.snapshot.layout.width,
        )
        reply.features.add(count=len(rows), lookups=1)
        frame, body = reply_frame(reply.SerializeToString(), len(rows) * item)
        self._gather(rows, request.output, body)
        return frame

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        plan = self._plans.get(names)
        if plan is None:
            plan = self._new_plan(names)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[names] = plan
        return plan

    def _new_plan(self, names: tuple[str, ...]) -> _Plan:
        if len(set(names)) < len(names):
            raise DataError(f"{WHERE}: a feature is asked for twice", "name each feature once")
        for name in names:
            if name not in self._routes:
                raise NotFoundError(
                    f"version {self.snapshot.name} has no feature {name[:80]!r}",
                    f"features it has: {', '.join(self._routes)}"[:500],
                )
        routes = tuple(self._routes[name] for name in names or self._routes)
        columns = {column for route in routes for column in route.feature.columns}
        num_lookups = tuple(
            num_served(self.snapshot.codec, self._lookups(route)) for route in routes
        )
        return _Plan(
            routes=routes,
            columns=frozenset(columns),
            num_lookups=num_lookups,
        )

    def _check_limits(
        self, plan: _Plan, columns: Mapping[str, pb.Column], request: pb.LookupRequest
    ) -> None:
        """Raises LimitError where a request asks for too much.

        At least what it will be is counted: a null list has no values, but one vector.
        """
        width = self.snapshot.layout.unit_width
        item = _item(self._items, request.output)
        num_lookups = num_bytes = 0
        for route, served in zip(plan.routes, plan.num_lookups, strict=True):
            feature = route.feature
            column = columns[feature.columns[0]]
            count = num_values(column)
            samples = 0
            if feature.is_bag:
                samples = num_samples(column, feature_is_bag=True)
                count += samples
                if not request.unpooled:
                    num_bytes += samples * self._lookups(route) * width * item
            num_lookups += count * served
            if not feature.is_bag or request.unpooled:
                lookups = served if request.output == pb.OUTPUT_CODEC else self._lookups(route)
                num_bytes += count * lookups * item + 4 * samples
        self._check_size(num_lookups, num_bytes, request)

    def _check_size(
        self, num_lookups: int, num_bytes: int, request: pb.LookupRequest | pb.LookupRowsRequest
    ) -> None:
        if num_lookups > self._limits.max_lookups:
            raise LimitError(
                f"{WHERE} asks for {num_lookups:,} rows; the limit is max_lookups ="
                f" {self._limits.max_lookups:,}",
                "send it in parts",
            )
        most = min(self._limits.max_reply_bytes, request.max_reply_bytes or 2**63)
        if num_bytes > most:
            raise LimitError(
                f"the reply would have {num_bytes:,} bytes of rows; the limit is max_reply_bytes ="
                f" {most:,}",
                "send the request in parts, or ask for the codec's own bytes",
            )

    def _lookups(self, route: FeatureRoute) -> int:
        """Returns the rows a reply has for a value: its lookups, or parts of what a reader made."""
        return route.width_total // self.snapshot.layout.unit_width

    def _block(
        self, route: FeatureRoute, columns: Mapping[str, pb.Column], served: int, unpooled: bool
    ) -> _Block:
        column = read_keys(route, columns, self._routes)
        keys, nulls, offsets = column.keys, column.nulls, column.offsets
        if offsets is not None and not unpooled and route.feature.pooling == "last":
            keys, nulls, offsets = ragged.newest(keys, nulls, offsets, 1)
        if route.reader is not None:
            return self._combined(route, KeyColumn(keys, nulls, offsets), unpooled)
        rows = self.snapshot.layout.rows_of(route.name, KeyColumn(keys, nulls))[:served]
        if offsets is None:
            return _Block(route=route, rows=rows, count=rows.shape[1])
        if unpooled:
            return _Block(route=route, rows=rows, count=rows.shape[1], offsets=offsets)
        return _Block(route=route, rows=rows, count=len(offsets) - 1, pooled=offsets)

    def _combined(self, route: FeatureRoute, column: KeyColumn, unpooled: bool) -> _Block:
        assert route.reader is not None  # noqa: S101  the caller has looked
        vectors = combined(route.reader, column, self.snapshot.vectors)
        block = _Block(route=route, rows=_NO_ROWS, count=len(vectors), vectors=vectors)
        if column.offsets is not None and unpooled:
            block.offsets = column.offsets
        elif column.offsets is not None:
            block.count = len(column.offsets) - 1
            block.pooled = column.offsets
        return block

    def _reply(self, output: pb.Output, stamp: Stamp) -> pb.LookupReply:
        return pb.LookupReply(
            stamp=stamp.message(),
            output=output,
            row_bytes=_item(self._items, output),
            width=self.snapshot.layout.unit_width,
        )

    def _written(
        self, plan: _Plan, blocks: Sequence[_Block], output: pb.Output, stamp: Stamp
    ) -> bytes:
        reply = self._reply(output, stamp)
        item = _item(self._items, output)
        sizes = []
        for block, served in zip(blocks, plan.num_lookups, strict=True):
            lookups = served if output == pb.OUTPUT_CODEC else self._lookups(block.route)
            feature = reply.features.add(count=block.count, lookups=lookups)
            if block.offsets is not None:
                feature.offsets = block.offsets.astype("<i4").tobytes()
            sizes.append(block.count * lookups * item)
        frame, body = reply_frame(reply.SerializeToString(), sum(sizes))
        at = 0
        for block, size in zip(blocks, sizes, strict=True):
            part = body[at : at + size]
            at += size
            if block.vectors is not None:
                _write_vectors(block, block.vectors, output, part)
            elif block.pooled is None and len(block.rows) * block.count * item == size:
                self._gather(np.ascontiguousarray(block.rows.T).reshape(-1), output, part)
            elif size:
                self._write_values(block, output, part)
        return frame

    def _gather(self, rows: Rows, output: pb.Output, out: Buffer) -> None:
        """Writes rows one behind the other as a reply has them."""
        if not len(rows):
            return
        if output in self._as_stored:
            codecs.gather_raw(self.snapshot.rows, rows, out.reshape(len(rows), -1))
            return
        width = self.snapshot.layout.width
        if output == pb.OUTPUT_FLOAT32:
            self._decode(rows, out.view(np.float32).reshape(len(rows), width))
        else:
            values = np.empty((len(rows), width), np.float32)
            self._decode(rows, values)
            out.view(np.float16).reshape(len(rows), width)[:] = values

    def _decode(self, rows: Rows, out: NDArray[np.float32]) -> None:
        self.snapshot.codec.gather(self.snapshot.rows, rows, out)

    def _write_values(self, block: _Block, output: pb.Output, out: Buffer) -> None:
        """Writes vectors whose lists are pooled, or some of whose lookups are zeros."""
        lookups, width = self._lookups(block.route), self.snapshot.layout.width
        served, n = block.rows.shape
        values = np.zeros((block.count, lookups * width), np.float32)
        decoded = np.empty((served * n, width), np.float32)
        if n:
            self._decode(np.ascontiguousarray(block.rows).reshape(-1), decoded)
        if block.pooled is None:
            blocks = decoded.reshape(served, n, width).transpose(1, 0, 2)
            values[:, : served * width] = blocks.reshape(n, served * width)
        elif served:
            # The decoded rows are a small table of their own.
            places = np.arange(served * n).reshape(served, n)
            pooled = np.empty((block.count, served * width), np.float32)
            mean = block.route.feature.pooling != "sum"
            kernels.gather_bags(decoded, places, block.pooled, mean, 0, pooled)
            values[:, : served * width] = pooled
        kind = np.float32 if output == pb.OUTPUT_FLOAT32 else np.float16
        out.view(kind).reshape(values.shape)[:] = values


def _items(codec: Codec) -> dict[int, int]:
    """Returns the bytes of one row in a reply, by output."""
    return {
        pb.OUTPUT_CODEC: codec.row_bytes,
        pb.OUTPUT_FLOAT32: 4 * codec.width,
        pb.OUTPUT_FLOAT16: 2 * codec.width,
    }


def _item(items: Mapping[int, int], output: pb.Output) -> int:
    item = items.get(output)
    if item is None:
        raise DataError(f"{WHERE}: output {output} is none", "use those of muxtable.v1.Output")
    return item


def _write_vectors(
    block: _Block, vectors: NDArray[np.float32], output: pb.Output, out: Buffer
) -> None:
    """Writes what a reader made, lists pooled."""
    if block.pooled is not None:
        vectors = pool(vectors, block.pooled, block.route.feature.pooling != "sum")
    kind = np.float16 if output == pb.OUTPUT_FLOAT16 else np.float32
    out.view(kind).reshape(vectors.shape)[:] = vectors


def _by_name(columns: Sequence[pb.Column], plan: _Plan) -> dict[str, pb.Column]:
    """Returns the columns by name; DataError unless they are those that the features read."""
    found = {column.name: column for column in columns}
    if len(found) < len(columns):
        raise DataError(f"{WHERE}: a column is sent twice", "send each column once")
    if found.keys() != plan.columns:
        missing = sorted(plan.columns - found.keys())
        if missing:
            raise DataError(
                f'{WHERE}: column "{missing[0]}" is missing',
                f"send each of {', '.join(sorted(plan.columns))}"[:500],
            )
        foreign = sorted(found.keys() - plan.columns)
        raise DataError(
            f"{WHERE}: column {foreign[0][:80]!r} is of no feature that is asked for",
            "leave it out, or name the features that read it",
        )
    return found


def _refuse_pooled_codes(plan: _Plan) -> None:
    for route in plan.routes:
        if route.feature.is_bag:
            raise DataError(
                f'{WHERE}: {route.feature.kind} "{route.name}" cannot be pooled in the codec\'s'
                " own bytes",
                "ask for float32 or float16, or set unpooled and pool what comes back",
            )
