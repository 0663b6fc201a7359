"""ParameterService: what each call of the contract does; who may call is decided elsewhere."""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from features.errors import DataError, NotFoundError, UnavailableError
from native.frames import take_ids
from serving.frame import chunk_frame, parsed
from serving.stubs import parameter_pb2 as pb
from serving.versions import Held, Versions
from storage.fsops import DISK, read_all
from storage.manifest import decode_manifest
from storage.names import MANIFEST, is_name
from storage.versions import is_version

CHUNK_BYTES = 1 << 20
_MOST_ASKED = 256


class Expired(Exception):  # noqa: N818  no error of ours: the caller has gone
    """The time that a caller gave is over; what it asked for is not worth doing."""


class ParameterService:
    """Answers out of the versions of this process; safe for any number of threads."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._asked: dict[bytes, pb.LookupRequest] = {}
        """What requests with ids alone ask for, by their bytes without ids."""

    def lookup(self, request: bytes, context: Any) -> bytes:
        """Returns the LookupReply of a LookupRequest as it came."""
        left_s = time_left(context)
        taken = take_ids(request)
        if taken is None:
            return self._lookup(parsed(pb.LookupRequest, request), left_s)
        rest, ids = taken
        asked = self._asked.get(rest)
        if asked is None:
            asked = parsed(pb.LookupRequest, rest)
            if len(self._asked) >= _MOST_ASKED:
                self._asked.clear()
            self._asked[rest] = asked
        held, stamp = self._versions.take(asked.choice, left_s)
        try:
            assert held.table is not None  # noqa: S101  it is available
            reply = held.table.plain.answer(rest, asked, ids, stamp.on_wire)
        finally:
            self._versions.give_back(held)
        if reply is None:
            return self._lookup(parsed(pb.LookupRequest, request), left_s)
        return reply

    def _lookup(self, request: pb.LookupRequest, left_s: float | None) -> bytes:
        with self._versions.using(request.choice, left_s) as (held, stamp):
            assert held.table is not None  # noqa: S101  it is available
            return held.table.lookup(request, stamp)

    def lookup_rows(self, request: pb.LookupRowsRequest, context: Any) -> bytes:
        """Returns a LookupReply."""
        left_s = time_left(context)
        with self._versions.using(request.choice, left_s) as (held, stamp):
            assert held.table is not None  # noqa: S101  it is available
            return held.table.lookup_rows(request, stamp)

    def get_manifest(self, request: pb.GetManifestRequest, context: Any) -> bytes:
        """Returns a GetManifestReply."""
        with self._versions.using(request.choice, time_left(context)) as (held, stamp):
            assert held.table is not None  # noqa: S101  it is available
            snapshot = held.table.snapshot
            limits = self._versions.limits
            reply = pb.GetManifestReply(
                stamp=stamp.message(),
                manifest=held.manifest,
                rows=snapshot.layout.rows,
                width=snapshot.layout.unit_width,
                codec=json.dumps(held.table.codec.to_json(), sort_keys=True),
                limits=pb.Limits(
                    max_request_bytes=limits.max_request_bytes,
                    max_reply_bytes=limits.max_reply_bytes,
                    max_lookups=limits.max_lookups,
                ),
            )
            for route in snapshot.layout.routes:
                feature = route.feature
                reply.features.add(
                    name=feature.name,
                    kind=feature.kind,
                    columns=feature.columns,
                    lookups=route.width_total // snapshot.layout.unit_width,
                    key_class=route.key_class or "",
                    derive=feature.derive or "",
                    pooling=feature.pooling or "",
                )
            for name, array in sorted(held.table.codec.shared().items()):
                plain = np.ascontiguousarray(array)
                reply.tensors.add(
                    name=name, dtype=plain.dtype.str, shape=plain.shape, data=plain.tobytes()
                )
        return reply.SerializeToString()

    def list_versions(self, request: pb.ListVersionsRequest, context: Any) -> bytes:
        """Returns a ListVersionsReply."""
        del request, context
        return self._versions.describe().SerializeToString()

    def watch_versions(self, request: pb.ListVersionsRequest, context: Any) -> Iterator[bytes]:
        """Yields a ListVersionsReply now, and one after each change."""
        del request
        for reply in self._versions.changes(context.is_active):
            yield reply.SerializeToString()

    def fetch_shard(self, request: pb.FetchShardRequest, context: Any) -> Iterator[bytes]:
        """Yields the FetchShardReplys of a file from an offset on.

        Raises DataError for a name that is none, NotFoundError for a file that there is not.
        """
        if not is_version(request.version) or not is_name("file", request.file):
            raise DataError(
                f"{request.version[:80]!r} {request.file[:80]!r} are no names of a version and a"
                " file of it",
                "take them from ListVersions and from the manifest",
            )
        choice = pb.Choice(version=request.version)
        with self._versions.using(choice, None) as (held, stamp):
            size = _size_in(held, request.file)
            if request.offset > size:
                raise DataError(
                    f"{request.file} has {size:,} bytes; {request.offset:,} is behind its end",
                    "begin at an offset in the file",
                )
            descriptor = DISK.open_file(request.file, held.directory)
        try:
            head = pb.FetchShardReply(stamp=stamp.message(), offset=request.offset)
            yield from _chunks(descriptor, request.offset, size, head, context)
        finally:
            os.close(descriptor)


def time_left(context: Any) -> float | None:
    """Returns the seconds the caller still waits, None for a caller without a deadline.

    Raises Expired where it waits no longer: a call may have stood in a queue.
    """
    left_s: float | None = context.time_remaining()
    if (left_s is not None and left_s <= 0) or not context.is_active():
        raise Expired
    return left_s


def _size_in(held: Held, file: str) -> int:
    if file == MANIFEST:
        return len(held.manifest)
    for entry in decode_manifest(held.manifest, "the manifest").files:
        if entry.name == file:
            return entry.size
    raise NotFoundError(f"version {held.name} has no file {file!r}", "the manifest lists its files")


def _chunks(
    descriptor: int, offset: int, size: int, head: pb.FetchShardReply, context: Any
) -> Iterator[bytes]:
    message = head
    while context.is_active():
        length = min(CHUNK_BYTES, size - offset)
        frame, body = chunk_frame(message.SerializeToString(), length)
        if read_all(DISK, descriptor, body.data, offset) < length:
            raise UnavailableError("a file was cut while it was read", "load the version again")
        yield frame
        offset += length
        if offset >= size:
            return
        message = pb.FetchShardReply(offset=offset)
