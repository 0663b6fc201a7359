"""Bytes from strangers: a service answers each with a status, and goes on."""

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import MuxtableError
from serving.client import Client
from serving.packing import packed
from serving.server import ADMIN, PARAMETER
from serving.stubs import parameter_pb2 as pb
from serving.table import Limits, Stamp, Table
from storage.snapshot import open_snapshot
from tests.serving.service import served
from tests.serving.small import table_of, write_version

STAMP = Stamp(version="v-0000000001", digest=bytes(32), counter=1)
PLAIN = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
)
SMALL = st.binary(max_size=40)
WORD = st.sampled_from(["user", "city", "tags", "history", "time", "price", "level", "x", ""])


@st.composite
def columns(draw):
    column = pb.Column(name=draw(WORD))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        column.int64s = draw(SMALL)
    elif kind == 1:
        column.strings.data = draw(SMALL)
        column.strings.offsets = draw(SMALL)
    elif kind == 2:
        column.doubles = draw(SMALL)
    if draw(st.booleans()):
        column.validity = draw(SMALL)
    if draw(st.booleans()):
        column.offsets = draw(
            st.one_of(
                SMALL,
                st.lists(st.integers(-3, 8), max_size=6).map(
                    lambda numbers: np.array(numbers, np.int32).tobytes()
                ),
            )
        )
    if draw(st.booleans()):
        column.list_validity = draw(SMALL)
    column.unit = draw(st.integers(0, 7))
    return column


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz")
    write_version(directory, 1, "int8")
    with open_snapshot(directory / "v-0000000001") as snapshot:
        yield Table(snapshot, Limits(max_lookups=4096))


@settings(suppress_health_check=list(HealthCheck))
@given(
    features=st.lists(
        st.sampled_from(["user", "city", "tags", "history", "hour", "price", "user_city"]),
        max_size=3,
    ),
    sent=st.lists(columns(), max_size=4),
    output=st.integers(0, 4),
    unpooled=st.booleans(),
)
def test_any_columns_get_a_reply_or_an_error_of_ours(table, features, sent, output, unpooled):
    request = pb.LookupRequest(features=features, columns=sent, output=output, unpooled=unpooled)
    try:
        reply = table.lookup(request, STAMP)
    except MuxtableError:
        return
    parsed = pb.LookupReply.FromString(reply)
    sizes = [each.count * each.lookups for each in parsed.features]
    assert sum(sizes) * parsed.row_bytes == len(parsed.rows)


@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_request_with_a_byte_changed_gets_a_reply_or_an_error_of_ours(table, data):
    rows = table_of(20)
    sent = [packed(name, rows.column(name).combine_chunks()) for name in rows.column_names]
    good = bytearray(pb.LookupRequest(columns=sent).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = pb.LookupRequest.FromString(bytes(good))
    except Exception:  # noqa: BLE001  the guard answers it
        return
    try:
        table.lookup(request, STAMP)
    except MuxtableError:
        return


def test_random_bytes_at_every_method_get_a_plain_status(tmp_path):
    write_version(tmp_path, 1)
    rng = np.random.default_rng(0)
    codes = set()
    with served(tmp_path) as service:
        with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            for service_of in (PARAMETER, ADMIN):
                for method in service_of.methods:
                    path = f"/{service_of.full_name}/{method.name}"
                    for _ in range(20):
                        data = rng.integers(0, 256, rng.integers(1, 60)).astype(np.uint8).tobytes()
                        call = channel.unary_stream(path, None, None)(data, timeout=5)
                        try:
                            next(iter(call))
                            call.cancel()
                            codes.add(grpc.StatusCode.OK)
                        except grpc.RpcError as exc:
                            codes.add(exc.code())
        with Client(f"127.0.0.1:{service.port}") as client:
            assert client.lookup({"user": [1]}).version == "v-0000000001"

    assert codes <= set(PLAIN)
