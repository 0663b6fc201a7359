import threading
import time

import grpc
import numpy as np
import pytest

from features.errors import LimitError
from serving.client import Client
from serving.packing import packed
from serving.stubs import parameter_pb2 as pb
from serving.wire import PARAMETER, Wire
from tests.serving.service import served
from tests.serving.small import write_version


def request_of(count, **more):
    ids = np.arange(count, dtype=np.int64)
    return pb.LookupRequest(features=["user"], columns=[packed("user", ids)], **more)


def test_the_limit_of_rows_is_exact_and_named(tmp_path):
    write_version(tmp_path, 1)
    with served(tmp_path, max_lookups=300) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        for count in (99, 100):
            wire.lookup(request_of(count).SerializeToString(), 5)
        with pytest.raises(LimitError, match="max_lookups = 300"):
            wire.lookup(request_of(101).SerializeToString(), 5)
        wire.close()


def test_a_reply_that_is_too_large_is_refused_before_anything_is_looked_up(tmp_path):
    write_version(tmp_path, 1)
    row = 3 * 8 * 4
    with served(tmp_path, max_reply_bytes=100 * row) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        wire.lookup(request_of(100).SerializeToString(), 5)
        with pytest.raises(LimitError, match="max_reply_bytes"):
            wire.lookup(request_of(101).SerializeToString(), 5)
        wire.lookup(request_of(50, max_reply_bytes=50 * row).SerializeToString(), 5)
        with pytest.raises(LimitError, match=f"{51 * row:,}"):
            wire.lookup(request_of(51, max_reply_bytes=50 * row).SerializeToString(), 5)
        wire.close()


def test_a_request_of_too_many_bytes_is_refused(tmp_path):
    write_version(tmp_path, 1)
    limit = 20_000
    with (
        served(tmp_path, max_request_bytes=limit) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        call = channel.unary_unary(f"{PARAMETER}Lookup", None, None)
        room = limit - len(request_of(1000).SerializeToString())
        for extra, code in ((0, "OK"), (-1, "OK"), (1, "RESOURCE_EXHAUSTED")):
            request = request_of(1000)
            # A label of any length is no version: what counts here is the size.
            data = request.SerializeToString() + padding(room + extra)
            assert len(data) == limit + extra
            try:
                call(data)
                found = "OK"
            except grpc.RpcError as exc:
                found = exc.code().name
            assert found == code


def padding(size):
    """An unknown field of a size: what a newer client might send."""
    from serving.frame import varint

    head = bytes([0xFA, 0x3F])  # field 1023, bytes
    length = size - len(head) - len(varint(size))
    return head + varint(length) + bytes(size - len(head) - len(varint(length)))


def test_calls_beyond_the_limit_are_refused_at_once(tmp_path):
    write_version(tmp_path, 1)
    ids = np.arange(100_000)
    with served(tmp_path, max_calls=1, max_streams=1, threads=1) as service:
        codes = []
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{service.port}", options) as channel:
            call = channel.unary_unary(f"{PARAMETER}Lookup", None, None)
            data = pb.LookupRequest(
                features=["user"], columns=[packed("user", ids)]
            ).SerializeToString()
            futures = [call.future(data, timeout=20) for _ in range(40)]
            for future in futures:
                codes.append(future.code().name)
        with Client(f"127.0.0.1:{service.port}", dedup=False, timeout_s=20) as client:
            threads = [
                threading.Thread(target=lambda: client.lookup({"user": ids})) for _ in range(30)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert client.lookup({"user": [1]})["user"].shape == (1, 24)

    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert codes.count("OK") >= 10


def test_a_stream_too_many_is_refused_and_leaves_lookups_alone(tmp_path):
    write_version(tmp_path, 1)
    with served(tmp_path, max_streams=2) as service:
        wires = [Wire(f"127.0.0.1:{service.port}") for _ in range(3)]
        streams = [wire.watch_versions() for wire in wires]
        for stream in streams[:2]:
            next(stream)
        with pytest.raises(LimitError, match="max_streams"):
            next(streams[2])
        with Client(f"127.0.0.1:{service.port}") as client:
            client.lookup({"user": [1]})
        streams[0].close()
        for _ in range(50):
            try:
                next(wires[2].watch_versions())
                break
            except LimitError:
                time.sleep(0.1)
        else:
            raise AssertionError("the place was not given back")
        for wire in wires:
            wire.close()


def test_a_deadline_that_has_passed_is_not_worked_for(tmp_path):
    write_version(tmp_path, 1)
    with (
        served(tmp_path, threads=1, max_calls=200) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        call = channel.unary_unary(f"{PARAMETER}Lookup", None, None)
        data = request_of(300_000).SerializeToString()
        futures = [call.future(data, timeout=0.15) for _ in range(100)]
        codes = [future.code().name for future in futures]
        began = time.monotonic()
        call(request_of(1).SerializeToString(), timeout=10)
        took = time.monotonic() - began

    assert "DEADLINE_EXCEEDED" in codes
    # What had expired in the queue was dropped: the next call did not wait for all of it.
    assert took < 2
