"""Requests with ids alone take a way of their own; what they get is what protobuf's way gives."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import LimitError, MuxtableError
from features.regions import Placement, Region
from features.routing import Layout
from features.schema import Feature
from native.frames import take_ids
from serving.stubs import parameter_pb2 as pb
from serving.table import Limits, Stamp, Table
from serving.wire import Wire
from storage.codecs.registry import codec_named
from storage.snapshot import open_snapshot
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot
from tests.serving.service import served

STAMP = Stamp(version="v-0000000001", digest=bytes(range(32)), counter=300)
ROWS, WIDTH = 997, 6
# Name -> column, lookups, class of keys.
FEATURES = {
    "a": ("a", 1, "int"),
    "b": ("b", 3, "int"),
    "again": ("b", 2, "int"),
    "s": ("s", 1, "string"),
}


def write(directory, codec):
    features = [
        (
            Feature(
                name=name, kind="categorical", columns=(column,), num_lookups=count, salt_name=name
            ),
            key,
        )
        for name, (column, count, key) in FEATURES.items()
    ]
    layout = Layout.assemble(
        width=WIDTH,
        hash_seed=0,
        regions=[Region(name="shared", kind="shared", base=0, rows=ROWS, width=WIDTH)],
        placements=[
            Placement(feature=each, region="shared", key_class=key) for each, key in features
        ],
        vocabularies={},
    )
    values = np.random.default_rng(0).normal(0, 0.05, (ROWS, WIDTH)).astype(np.float32)
    source = Source(
        layout=layout,
        codec=codec_named(codec)(WIDTH, values),
        read_rows=lambda first, end: values[first:end],
        lineage=Lineage(run="run", job="0" * 64, step=1, checkpoint="1" * 64),
    )
    write_snapshot(directory, "v-0000000001", source)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    opened = {}
    for codec in ("float32", "float16", "int8", "prefix:1+int8"):
        directory = tmp_path_factory.mktemp("plain")
        write(directory, codec)
        snapshot = open_snapshot(directory / "v-0000000001")
        opened[codec] = Table(snapshot, Limits(max_lookups=900, max_reply_bytes=20_000))
    yield opened
    for table in opened.values():
        table.snapshot.close()


def plain(table, data):
    """The reply of the way for ids alone, None where a request does not take it."""
    taken = take_ids(data)
    if taken is None:
        return None
    rest, ids = taken
    return table.plain.answer(rest, pb.LookupRequest.FromString(rest), ids, STAMP.on_wire)


def request_of(counts, **more):
    rng = np.random.default_rng(sum(counts.values()))
    columns = [
        pb.Column(name=name, int64s=rng.integers(-(2**63), 2**63 - 1, n).tobytes())
        for name, n in counts.items()
    ]
    return pb.LookupRequest(columns=columns, **more)


COUNT = st.one_of(st.integers(0, 20), st.sampled_from([127, 128, 299, 300, 301]))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    codec=st.sampled_from(["float32", "float16", "int8", "prefix:1+int8"]),
    features=st.lists(st.sampled_from([*FEATURES, "c"]), max_size=4),
    counts=st.dictionaries(st.sampled_from(["a", "b", "s", "c"]), COUNT, max_size=4),
    units=st.integers(0, 6),
    output=st.integers(0, 3),
    unpooled=st.booleans(),
    most=st.sampled_from([0, 100, 2**64 - 1]),
)
def test_both_ways_give_the_same_bytes(
    tables, codec, features, counts, units, output, unpooled, most
):
    request = request_of(counts, features=features, output=output, unpooled=unpooled)
    request.max_reply_bytes = most
    for column in request.columns:
        column.unit = units

    found = plain(tables[codec], request.SerializeToString())

    if found is not None:
        assert found == tables[codec].lookup(request, STAMP)


@pytest.mark.parametrize(
    ("codec", "output"), [("float32", 0), ("float32", 2), ("float16", 1), ("int8", 2)]
)
def test_ids_of_hashed_features_take_the_short_way(tables, codec, output):
    for counts in ({"a": 5, "b": 5}, {"b": 7, "a": 1}, {"b": 0, "a": 3}):
        request = request_of(counts, features=["again", "a", "b"], output=output)

        found = plain(tables[codec], request.SerializeToString())

        assert found is not None
        assert found == tables[codec].lookup(request, STAMP)


def test_what_is_not_plain_takes_the_long_way(tables):
    table = tables["int8"]
    good = {"features": ["a"], "output": 2}
    for request in (
        request_of({"s": 3}, features=["s"], output=2),
        request_of({"a": 3}, features=["a"], output=0),
        request_of({"a": 3}, features=["a", "a"], output=2),
        request_of({"a": 3, "b": 3}, **good),
        request_of({"a": 0}, **good),
        request_of({"a": 901}, **good),
        request_of({"a": 3}, max_reply_bytes=3, **good),
    ):
        assert plain(table, request.SerializeToString()) is None
    assert (
        plain(
            tables["prefix:1+int8"],
            request_of({"b": 3}, features=["b"], output=2).SerializeToString(),
        )
        is None
    )


def test_the_service_says_the_same_on_either_way(tmp_path):
    write(tmp_path, "int8")
    cases = [
        request_of({"a": 3, "b": 3}, features=["a", "b"], output=2),
        request_of({"a": 3}, features=["b"], output=2),
        request_of({"a": 3}, features=["none"], output=2),
        request_of({"a": 3}, features=["a"], output=9),
        request_of({"a": 3}, features=["a"], output=2, choice=pb.Choice(version="v-0000000007")),
        request_of({"a": 3}, features=["a"], output=2, choice=pb.Choice(version="previous")),
        request_of({"a": 10_000}, features=["a"], output=2),
    ]

    def asked(wire, request):
        try:
            return wire.lookup(request.SerializeToString(), 5)
        except MuxtableError as exc:
            return type(exc), exc.what, exc.fix

    with served(tmp_path, max_lookups=5000) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        for request in cases:
            # An unknown field is enough for the long way.
            longer = pb.LookupRequest.FromString(request.SerializeToString() + b"\xfa\x3f\x01x")
            answers = [asked(wire, request), asked(wire, longer), asked(wire, request)]
            assert answers[0] == answers[1] == answers[2]
        with pytest.raises(LimitError):
            wire.lookup(cases[-1].SerializeToString(), 5)
        wire.close()


def test_requests_that_all_differ_leave_the_memory_of_others_alone(tables):
    table = tables["int8"]
    for turn in range(2000):
        request = request_of({"a": 2}, features=["a"], output=2, max_reply_bytes=1000 + turn)
        assert plain(table, request.SerializeToString()) == table.lookup(request, STAMP)

    assert len(table.plain._known) <= 256
