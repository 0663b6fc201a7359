"""A client's side of lookups without the network: requests out of values, arrays out of replies.

Both clients, the plain one and the one for asyncio, are a transport around this.

A request asks for rows as the version stores them, which are decoded here: that is two to three
times faster than float32 on the wire. Lists are pooled here, too, by the kernel of training.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features import ragged
from features.errors import ConfigError, DataError, UnavailableError
from native import kernels
from serving.frame import split_reply
from serving.packing import Values, packed, read_values
from serving.stubs import parameter_pb2 as pb
from storage.codecs.base import Codec
from storage.codecs.registry import codec_from_json

OnWire = Literal["codec", "float32", "float16"]
_OUTPUTS: dict[str, pb.Output] = {
    "codec": pb.OUTPUT_CODEC,
    "float32": pb.OUTPUT_FLOAT32,
    "float16": pb.OUTPUT_FLOAT16,
}
# Fewer values are sent faster than searched for repeated ones.
_DEDUP_FROM = 1024
_MOST_MODELS = 4
# What the names in a request and the fields around values take at most, roughly.
_HEAD_BYTES = 65_536

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Vectors of lists that were not pooled: sample i has values[offsets[i]:offsets[i + 1]]."""

    values: Vectors
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings(Mapping[str, Any]):
    """Vectors float32[B, lookups x width] by feature, all of one version."""

    version: str
    digest: str
    """sha256 of the version's manifest."""
    counter: int
    """Promotions of the service when it answered."""
    arrays: dict[str, Any] = field(default_factory=dict)
    """A `Ragged` for a list that was not to be pooled."""

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def matrix(self) -> Vectors:
        """Returns all features side by side, in their order: the input of the tower."""
        return np.concatenate(list(self.arrays.values()), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """What a client knows of a version."""

    stamp: pb.Stamp
    features: dict[str, pb.FeatureInfo]
    codec: Codec
    width: int
    limits: pb.Limits

    @classmethod
    def of(cls, reply: pb.GetManifestReply) -> "Model":
        """Reads what GetManifest said."""
        shared = {
            tensor.name: np.frombuffer(tensor.data, np.dtype(tensor.dtype)).reshape(tensor.shape)
            for tensor in reply.tensors
        }
        return cls(
            stamp=reply.stamp,
            features={feature.name: feature for feature in reply.features},
            codec=codec_from_json(json.loads(reply.codec), shared),
            width=reply.width,
            limits=reply.limits,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ask:
    """A lookup on its way: what was asked for, in parts that fit the limits."""

    names: tuple[str, ...]
    unpooled: bool
    pooled_here: bool
    output: pb.Output
    values: dict[str, Values]
    inverse: dict[str, NDArray[np.int64]]
    """Columns that are sent without repeated values -> where each sample's value is."""
    columns: dict[str, pb.Column]
    """Those columns."""
    bounds: tuple[tuple[int, int], ...]
    """The samples of each part."""


class Session:
    """What a client remembers between calls."""

    def __init__(self, wire: OnWire, dedup: bool, max_reply_bytes: int) -> None:
        if wire not in _OUTPUTS:
            raise ConfigError(f'wire "{wire}" is none', f"use {', '.join(_OUTPUTS)}")
        self._output = _OUTPUTS[wire]
        self._dedup = dedup
        self._max_reply_bytes = max_reply_bytes
        self._models: dict[bytes, Model] = {}
        self.counter = 0
        """The highest promotion seen: no older one will answer."""

    def choice(self, version: str) -> pb.Choice:
        """Returns which version is to answer."""
        return pb.Choice(version=version, min_counter=self.counter)

    def known(self, digest: bytes) -> Model | None:
        """Returns what is known of the version of a digest."""
        return self._models.get(digest)

    def learn(self, reply: pb.GetManifestReply) -> Model:
        """Remembers what GetManifest said."""
        model = Model.of(reply)
        while len(self._models) >= _MOST_MODELS:
            self._models.pop(next(iter(self._models)))
        self._models[model.stamp.digest] = model
        self.counter = max(self.counter, model.stamp.counter)
        return model

    def ask(
        self,
        model: Model,
        values: Mapping[str, Any],
        features: Sequence[str] | None,
        pooled: bool,
    ) -> Ask:
        """Returns the parts of a lookup; DataError where values are missing or of other lengths."""
        names = _names(model, values, features)
        infos = [model.features[name] for name in names]
        wanted = dict.fromkeys(column for info in infos for column in info.columns)
        for name in wanted:
            if name not in values:
                raise DataError(f'the values of column "{name}" are missing', "give them")
        read = {name: read_values(name, values[name]) for name in wanted}
        lengths = {len(each) for each in read.values()}
        if len(lengths) > 1:
            shown = ", ".join(f"{name} {len(each)}" for name, each in read.items())
            raise DataError(
                f"the columns differ in length: {shown}", "give one value of each for every sample"
            )
        has_bags = any(info.pooling for info in infos)
        pooled_here = pooled and has_bags and self._output == pb.OUTPUT_CODEC
        bounds = self._bounds(model, infos, read, lengths.pop() if lengths else 0)
        columns, inverse = self._deduplicated(infos, read) if len(bounds) == 1 else ({}, {})
        return Ask(
            names=names,
            unpooled=not pooled or pooled_here,
            pooled_here=pooled_here,
            output=self._output,
            values=read,
            inverse=inverse,
            columns=columns,
            bounds=bounds,
        )

    def request(self, ask: Ask, part: int, version: str) -> bytes:
        """Returns the LookupRequest of a part, to be answered by a version."""
        first, end = ask.bounds[part]
        columns = [
            ask.columns[name] if name in ask.columns else each.pack(first, end)
            for name, each in ask.values.items()
        ]
        return pb.LookupRequest(
            choice=self.choice(version),
            features=ask.names,
            columns=columns,
            output=ask.output,
            unpooled=ask.unpooled,
            max_reply_bytes=self._max_reply_bytes,
        ).SerializeToString()

    def heard(self, message: bytes) -> tuple[pb.LookupReply, memoryview]:
        """Takes a reply apart and remembers its promotion."""
        reply, rows = split_reply(message)
        self.counter = max(self.counter, reply.stamp.counter)
        return reply, rows

    def embeddings(
        self, model: Model, ask: Ask, replies: Sequence[tuple[pb.LookupReply, memoryview]]
    ) -> Embeddings:
        """Returns the arrays of a lookup out of the replies of its parts."""
        parts = [_decoded(model, ask, reply, rows) for reply, rows in replies]
        stamp = replies[0][0].stamp
        arrays = {}
        for name in ask.names:
            pieces = [part[name] for part in parts]
            joined = pieces[0] if len(pieces) == 1 else _joined(pieces)
            column = model.features[name].columns[0]
            arrays[name] = joined[ask.inverse[column]] if column in ask.inverse else joined
        return Embeddings(
            version=stamp.version,
            digest=stamp.digest.hex(),
            counter=stamp.counter,
            arrays=arrays,
        )

    def _bounds(
        self,
        model: Model,
        infos: Sequence[pb.FeatureInfo],
        read: Mapping[str, Values],
        num_samples: int,
    ) -> tuple[tuple[int, int], ...]:
        """Cuts the samples into parts within the limits of service and client."""
        limits = model.limits
        row_bytes = model.codec.row_bytes if self._output == pb.OUTPUT_CODEC else 4 * model.width
        most_bytes = min(limits.max_reply_bytes, self._max_reply_bytes)
        each = sum(info.lookups for info in infos if not info.pooling)
        costs = np.full(num_samples, each, np.int64)
        sizes = np.full(num_samples, 8 * len(read), np.int64)
        for info in infos:
            lengths = read[info.columns[0]].lengths if info.pooling else None
            if lengths is not None:
                costs += (lengths + 1) * info.lookups
        for values in read.values():
            if not isinstance(values.data, np.ndarray) and num_samples:
                sizes += 8 + -(-values.data.nbytes // num_samples)
        # What counts of a limit is compared in rows.
        rows = min(limits.max_lookups, most_bytes // max(row_bytes, 1))
        spent = np.cumsum(costs)
        sent = np.cumsum(sizes)
        budget = max(limits.max_request_bytes - _HEAD_BYTES, _HEAD_BYTES)
        if not num_samples or (spent[-1] <= rows and sent[-1] <= budget):
            return ((0, num_samples),)
        bounds = []
        first = 0
        while first < num_samples:
            before = (spent[first - 1], sent[first - 1]) if first else (0, 0)
            end = min(
                int(np.searchsorted(spent, before[0] + rows, side="right")),
                int(np.searchsorted(sent, before[1] + budget, side="right")),
            )
            end = max(end, first + 1)
            bounds.append((first, end))
            first = end
        return tuple(bounds)

    def _deduplicated(
        self, infos: Sequence[pb.FeatureInfo], read: Mapping[str, Values]
    ) -> tuple[dict[str, pb.Column], dict[str, NDArray[np.int64]]]:
        """Returns columns whose repeated values are sent once, where that is possible."""
        columns: dict[str, pb.Column] = {}
        inverse: dict[str, NDArray[np.int64]] = {}
        if not self._dedup:
            return columns, inverse
        used = [column for info in infos for column in info.columns]
        for info in infos:
            name = info.columns[0]
            values = read[name]
            is_alone = used.count(name) == 1 and len(info.columns) == 1
            if info.pooling or not is_alone or len(values) < _DEDUP_FROM:
                continue
            distinct, places = _distinct(values.data)
            if 2 * len(distinct) <= len(values):
                columns[name] = packed(name, distinct)
                inverse[name] = places
        return columns, inverse


def _names(
    model: Model, values: Mapping[str, Any], features: Sequence[str] | None
) -> tuple[str, ...]:
    """Returns the features to ask for: those that are named, or all that the columns allow."""
    if features is not None:
        for name in features:
            if name not in model.features:
                raise DataError(
                    f'version {model.stamp.version} has no feature "{name}"',
                    f"features it has: {', '.join(model.features)}"[:500],
                )
        return tuple(dict.fromkeys(features))
    names = tuple(
        name
        for name, info in model.features.items()
        if all(column in values for column in info.columns)
    )
    known = {column for name in names for column in model.features[name].columns}
    foreign = [name for name in values if name not in known]
    if foreign or not names:
        columns = dict.fromkeys(c for info in model.features.values() for c in info.columns)
        raise DataError(
            f'column "{foreign[0]}" makes no feature of version {model.stamp.version}'
            if foreign
            else "no values were given",
            f"columns it knows: {', '.join(columns)}"[:500],
        )
    return names


def _distinct(data: Any) -> tuple[Any, NDArray[np.int64]]:
    if isinstance(data, np.ndarray):
        distinct, places = np.unique(data, return_inverse=True)
        return distinct, places.astype(np.int64, copy=False)
    if pa.types.is_dictionary(data.type):
        data = data.dictionary_decode()
    coded = pc.dictionary_encode(data, null_encoding="encode")
    return coded.dictionary, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _decoded(model: Model, ask: Ask, reply: pb.LookupReply, rows: memoryview) -> dict[str, Any]:
    """Returns the arrays of one reply by feature."""
    if len(reply.features) != len(ask.names):
        raise _odd(reply)
    data = np.frombuffer(rows, np.uint8)
    counts = [feature.count * feature.lookups for feature in reply.features]
    if sum(counts) * reply.row_bytes != len(data) or reply.width != model.width:
        raise _odd(reply)
    flat = _floats(model, reply, data, sum(counts))
    arrays: dict[str, Any] = {}
    at = 0
    for name, feature, count in zip(ask.names, reply.features, counts, strict=True):
        info = model.features[name]
        part = flat[at : at + count]
        at += count
        if not info.pooling or not ask.unpooled:
            arrays[name] = _widened(
                part.reshape(feature.count, feature.lookups * model.width), info, model
            )
            continue
        offsets = np.frombuffer(feature.offsets, np.int32).astype(np.int64)
        if ask.pooled_here:
            arrays[name] = _pooled(part, feature, info, offsets, model)
        else:
            arrays[name] = Ragged(
                _widened(part.reshape(feature.count, feature.lookups * model.width), info, model),
                offsets,
            )
    return arrays


def _floats(model: Model, reply: pb.LookupReply, data: NDArray[np.uint8], count: int) -> Vectors:
    """Returns the rows float32[n, width] of a reply."""
    if reply.output == pb.OUTPUT_CODEC:
        return model.codec.decode(data.reshape(count, reply.row_bytes))
    kind = np.float32 if reply.output == pb.OUTPUT_FLOAT32 else np.float16
    # A proxy may have written the message anew, without our alignment.
    values = np.require(data.view(kind).reshape(count, model.width), requirements="A")
    return values.astype(np.float32, copy=False)


def _widened(values: Vectors, info: pb.FeatureInfo, model: Model) -> Vectors:
    """Returns vectors with zeros for the lookups that a prefix codec leaves out."""
    width = info.lookups * model.width
    if values.shape[1] == width:
        return values
    out = np.zeros((len(values), width), np.float32)
    out[:, : values.shape[1]] = values
    return out


def _pooled(
    part: Vectors,
    feature: pb.FeatureRows,
    info: pb.FeatureInfo,
    offsets: NDArray[np.int64],
    model: Model,
) -> Vectors:
    lookups = feature.lookups
    places = np.arange(feature.count * lookups).reshape(feature.count, lookups)
    if info.pooling == "last":
        lengths = np.minimum(np.diff(offsets), 1)
        places = places[offsets[1:][lengths == 1] - 1]
        offsets = ragged.offsets_of(lengths)
    out = np.empty((len(offsets) - 1, lookups * model.width), np.float32)
    rows = np.ascontiguousarray(places.T)
    kernels.gather_bags(part, rows, offsets, info.pooling != "sum", 0, out)
    return _widened(out, info, model)


def _joined(pieces: Sequence[Any]) -> Any:
    if not isinstance(pieces[0], Ragged):
        return np.concatenate(pieces)
    lengths = np.concatenate([np.diff(piece.offsets) for piece in pieces])
    return Ragged(np.concatenate([piece.values for piece in pieces]), ragged.offsets_of(lengths))


def _odd(reply: pb.LookupReply) -> UnavailableError:
    return UnavailableError(
        f"the reply of version {reply.stamp.version} does not fit what was asked",
        "try again; the service may be of another release",
    )
