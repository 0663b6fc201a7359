from contextlib import suppress

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UnavailableError
from serving.frame import chunk_frame, reply_frame, split_reply
from serving.stubs import parameter_pb2 as pb
from tests.serving.service import served
from tests.serving.small import table_of, write_version

SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from([0, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**21 + 1])
)


@given(name=st.text(max_size=40), size=SIZES, features=st.integers(0, 30))
def test_a_reply_written_by_hand_is_what_protobuf_writes(name, size, features):
    head = pb.LookupReply(
        stamp=pb.Stamp(version=name, digest=bytes(32), counter=7), output=2, row_bytes=40, width=32
    )
    for count in range(features):
        head.features.add(count=count, lookups=2)
    rows = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)

    frame, body = reply_frame(head.SerializeToString(), size)
    body[:] = rows

    parsed = pb.LookupReply.FromString(frame)
    assert parsed.SerializeToString() == frame
    assert parsed.rows == rows.tobytes()
    assert size == 0 or (len(frame) - size) % 16 == 0
    assert body.ctypes.data % 16 == 0 or size == 0
    meta, view = split_reply(frame)
    assert bytes(view) == parsed.rows
    parsed.rows = b""
    assert meta == parsed


@given(offset=st.integers(0, 2**63), size=SIZES)
def test_a_chunk_written_by_hand_is_what_protobuf_writes(offset, size):
    head = pb.FetchShardReply(offset=offset)

    frame, body = chunk_frame(head.SerializeToString(), size)
    body[:] = 5

    parsed = pb.FetchShardReply.FromString(frame)
    assert (parsed.SerializeToString(), parsed.offset, len(parsed.data)) == (frame, offset, size)


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_reply_are_an_error_or_a_reply(data):
    # protobuf refuses what has the form of fields, but none of ours.
    with suppress(UnavailableError, DecodeError):
        split_reply(data)


@pytest.mark.parametrize("codec", ["float32", "int8", "pq:2x8", "prefix:1+int8"])
@pytest.mark.parametrize("output", [0, 1, 2])
def test_what_the_service_sends_is_what_protobuf_would(tmp_path, codec, output):
    from serving.packing import packed
    from serving.wire import Wire

    write_version(tmp_path, 1, codec)
    table = table_of(37)
    columns = [packed(name, table.column(name).combine_chunks()) for name in table.column_names]
    request = pb.LookupRequest(columns=columns, output=output, unpooled=output == 2)

    with served(tmp_path) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        message = wire.lookup(request.SerializeToString(), 5)
        wire.close()

    reply = pb.LookupReply.FromString(message)
    assert reply.SerializeToString() == message
    assert len(reply.rows) == sum(f.count * f.lookups for f in reply.features) * reply.row_bytes
