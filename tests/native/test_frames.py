import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from native.frames import PlainLookup, reserve, take_ids
from native.hashing import hash_rows, salts
from serving.stubs import parameter_pb2 as pb

NAMES = st.sampled_from(["a", "b", "name", "ä", "x" * 130])
COUNTS = st.one_of(st.integers(0, 5), st.sampled_from([127, 128, 300]))


def test_what_is_written_through_the_view_is_in_the_bytes():
    frame, body = reserve(b"head", 3)
    body[:] = [1, 2, 3]

    assert frame == b"head\x01\x02\x03"
    assert reserve(b"head", 0)[0] == b"head"
    with pytest.raises(ValueError, match="size is -1"):
        reserve(b"", -1)


@given(
    features=st.lists(st.tuples(st.integers(1, 4), COUNTS), min_size=1, max_size=5),
    version=st.text(max_size=30),
    row_bytes=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_one_call_gives_what_hashing_gathering_and_protobuf_give(
    features, version, row_bytes, seed
):
    rng = np.random.default_rng(seed)
    num_lookups, counts = np.array(features, np.int32).T
    columns = rng.permutation(len(features)).astype(np.int32)
    total = int(num_lookups.sum())
    table = rng.integers(0, 256, (97, row_bytes)).astype(np.uint8)
    keys = [rng.integers(0, 2**64, n, np.uint64) for n in counts]
    salt = salts("feature", total, seed)
    bases, sizes = rng.integers(0, 50, total), rng.integers(1, 47, total)
    sent = [pb.Column(name=str(column)) for column in range(len(features))]
    reply = pb.LookupReply(stamp=pb.Stamp(version=version), output=2, row_bytes=row_bytes, width=9)
    first = 0
    for column, count, values in zip(columns, num_lookups, keys, strict=True):
        sent[column].int64s = values.tobytes()
        own = slice(first, first + int(count))
        first += int(count)
        rows = np.empty((count, len(values)), np.int64)
        same = np.zeros(count, np.int32)
        hash_rows(values[None], None, same, salt[own], salt[own], bases[own], sizes[own], rows)
        reply.features.add(count=len(values), lookups=int(count))
        reply.rows += table[rows.T.reshape(-1)].tobytes()

    lookup = PlainLookup(
        columns=columns,
        num_lookups=num_lookups.copy(),
        salts=salt,
        bases=bases,
        sizes=sizes,
        table=table,
        tail=pb.LookupReply(output=2, row_bytes=row_bytes, width=9).SerializeToString(),
        most_rows=10_000,
        most_bytes=1 << 20,
    )
    _, ids = take_ids(pb.LookupRequest(columns=sent).SerializeToString())
    answer = lookup.answer(pb.LookupReply(stamp=reply.stamp).SerializeToString(), ids)

    if not reply.rows:
        assert answer is None
        return
    parsed = pb.LookupReply.FromString(answer)
    assert parsed.SerializeToString() == answer
    assert (len(answer) - len(reply.rows)) % 16 == 0
    parsed.ClearField("padding")
    assert parsed == reply


def lookup_of(**changes):
    one = np.ones(2, np.int64)
    defaults = {
        "columns": np.arange(2, dtype=np.int32),
        "num_lookups": np.ones(2, np.int32),
        "salts": salts("a", 2, 0),
        "bases": one,
        "sizes": one * 9,
        "table": np.zeros((10, 4), np.uint8),
        "tail": b"",
        "most_rows": 6,
        "most_bytes": 24,
    }
    return PlainLookup(**{**defaults, **changes})


def ids_of(*counts):
    columns = [pb.Column(name="x", int64s=bytes(8 * n)) for n in counts]
    return take_ids(pb.LookupRequest(columns=columns).SerializeToString())[1]


def test_what_does_not_fit_is_refused():
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match="ids has length"):
            lookup_of().answer(b"", ids_of(*[1] * count))
    with pytest.raises(IndexError, match="table has 9"):
        lookup_of(table=np.zeros((9, 4), np.uint8))
    with pytest.raises(ValueError, match="salts"):
        lookup_of(salts=salts("a", 1, 0))
    with pytest.raises(ValueError, match="no column"):
        lookup_of(columns=np.array([0, -1], np.int32))
    with pytest.raises(TypeError):
        lookup_of().answer(b"", bytes(16))


def test_a_reply_above_a_limit_is_left_to_others():
    assert lookup_of().answer(b"", ids_of(3, 3)) is not None
    assert lookup_of().answer(b"", ids_of(0, 0)) is None
    assert lookup_of().answer(b"", ids_of(4, 3)) is None
    assert lookup_of(most_bytes=23).answer(b"", ids_of(3, 3)) is None
    assert lookup_of(most_bytes=0, most_rows=0).answer(b"", ids_of(1, 0)) is None


def test_ids_outlive_the_request_they_came_in():
    request = pb.LookupRequest(columns=[pb.Column(name="x", int64s=bytes(8 * 1000))])
    taken = [take_ids(request.SerializeToString())[1] for _ in range(50)]
    del request

    lookup = lookup_of(
        columns=np.zeros(1, np.int32),
        num_lookups=np.full(1, 2, np.int32),
        most_rows=10**6,
        most_bytes=10**6,
    )
    assert len({lookup.answer(b"", each) for each in taken}) == 1


def plain_request(draw_from):
    """A request such as clients send, and now and then one with more in it."""

    @st.composite
    def request(draw):
        columns = []
        for _ in range(draw(st.integers(0, 4))):
            column = pb.Column(name=draw(NAMES), int64s=bytes(8 * draw(COUNTS)))
            column.unit = draw(st.sampled_from([0, 0, 0, 1, 3, 70]))
            if draw(draw_from):
                column.validity = b"\x01"
            columns.append(column)
        choice = pb.Choice(version=draw(NAMES), min_counter=draw(st.integers(0, 2**64 - 1)))
        return pb.LookupRequest(
            choice=choice if draw(st.booleans()) else None,
            features=draw(st.lists(NAMES, max_size=3)),
            columns=columns,
            output=draw(st.integers(0, 3)),
            unpooled=draw(st.booleans()),
            max_reply_bytes=draw(st.sampled_from([0, 1, 300, 2**64 - 1])),
        )

    return request()


def without_ids(request):
    rest = pb.LookupRequest()
    rest.CopyFrom(request)
    for column in rest.columns:
        column.ClearField("int64s")
    return rest


@given(request=plain_request(st.just(False)))
def test_what_is_left_is_the_request_without_its_ids(request):
    rest, ids = take_ids(request.SerializeToString())

    assert rest == without_ids(request).SerializeToString()
    assert ids is not None


@given(request=plain_request(st.booleans()))
def test_a_column_with_more_than_ids_is_left_to_protobuf(request):
    taken = take_ids(request.SerializeToString())

    assert (taken is None) == any(column.validity for column in request.columns)


def agrees_with_protobuf(data):
    """Whether what is taken out of any bytes is what protobuf reads in them."""
    taken = take_ids(data)
    if taken is None:
        return
    try:
        full = pb.LookupRequest.FromString(data)
    except DecodeError:  # names that are no UTF-8
        with pytest.raises(DecodeError):
            pb.LookupRequest.FromString(taken[0])
        return
    assert without_ids(full) == pb.LookupRequest.FromString(taken[0])
    assert all(column.WhichOneof("values") == "int64s" for column in full.columns)


# Lengths beyond the end, of five bytes, longer than they need be; numbers that do not end; groups;
# a field twice; a name that is no UTF-8.
@example(b"\x1a")
@example(b"\x1a\x05\x12\x08")
@example(b"\x1a\x0b\x12\xff\xff\xff\xff\x0f" + bytes(6))
@example(b"\x1a\x82\x00\x12\x00")
@example(b"\x1a\x04\x12\x80\x80\x00")
@example(b"\x30" + b"\xff" * 10 + b"\x01")
@example(b"\x30" + b"\xff" * 9 + b"\x7f")
@example(b"\x1b\x1c")
@example(b"\x1a\x14\x12\x08" + bytes(8) + b"\x12\x08" + bytes(8))
@example(b"\x1a\x04\x12\x00\x22\x00")
@example(b"\x1a\x05\x0a\x01\xff\x12\x00")
@example(b"\x9a\x00\x02\x12\x00")
@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them_or_left_to_it(data):
    agrees_with_protobuf(data)


@settings(suppress_health_check=list(HealthCheck))
@given(
    request=plain_request(st.just(False)),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 1 << 16),
    is_cut=st.booleans(),
)
def test_requests_with_bytes_changed_are_read_as_protobuf_reads_them(request, changes, cut, is_cut):
    data = bytearray(request.SerializeToString())
    for place, byte in changes:
        if data:
            data[place % len(data)] = byte
    if is_cut and data:
        del data[cut % len(data) :]

    agrees_with_protobuf(bytes(data))
