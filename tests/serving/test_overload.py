import threading
import time

import grpc
import numpy as np
import pytest

from serving.packing import packed
from serving.stubs import parameter_pb2 as pb
from serving.wire import PARAMETER
from tests.serving.running import quiet, running
from tests.serving.small import write_version

DATA = pb.LookupRequest(
    features=["user"], columns=[packed("user", np.arange(20_000))]
).SerializeToString()
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def calls_for(address, threads, seconds, timeout_s=10.0):
    """Closed loops of that many threads: (seconds of each call that was answered, of refused)."""
    answered, refused = [], []

    def run():
        with grpc.insecure_channel(address, OPTIONS) as channel:
            call = channel.unary_unary(f"{PARAMETER}Lookup", None, None)
            end = time.monotonic() + seconds
            while (began := time.monotonic()) < end:
                try:
                    call(DATA, timeout=timeout_s)
                    answered.append(time.monotonic() - began)
                except grpc.RpcError as exc:
                    if exc.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    refused.append(time.monotonic() - began)
                    time.sleep(0.005)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answered, refused


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_times_the_load_is_refused_at_once_and_the_rest_is_answered(tmp_path):
    write_version(tmp_path, 1)
    arguments = ("--max-calls", 1, "--max-streams", 1, "--threads", 2)
    with running(*quiet(tmp_path, *arguments)) as service:
        peak, none = calls_for(service.address, 2, 5)
        calls_for(service.address, 40, 5)  # forty connections have their buffers
        before = resident(service.child.pid)
        answered, refused = calls_for(service.address, 40, 20)
        after = resident(service.child.pid)
        recovered, _ = calls_for(service.address, 1, 2)

    assert none == []
    assert refused
    assert len(answered) / 20 >= 0.7 * len(peak) / 5
    # The client shares the machine, and forty threads of it take turns.
    assert np.median(refused) < 0.05
    assert after < 1.1 * before
    assert np.median(recovered) < 3 * np.median(peak)
