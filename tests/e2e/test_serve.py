import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import Client
from tests.launch.command import muxtable
from tests.serving.running import quiet, running
from tests.serving.small import write_version

FIRST, SECOND = "v-0000000001", "v-0000000002"


def page(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, ""


def test_a_service_is_run_and_steered_from_the_command_line(tmp_path):
    write_version(tmp_path, 1)
    with running(tmp_path, "--port", 0, "--health-port", 0, "--metrics-port", 0) as service:
        address, document = service.address, service.document
        assert document["version"] == FIRST
        with grpc.insecure_channel(f"127.0.0.1:{document['health']}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", "readiness"):
                reply = stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
        assert page(document["metrics"], "/ready")[0] == 200

        write_version(tmp_path, 2)
        done = muxtable("promote", address, SECOND, "--json")
        assert done.document == {"version": SECOND, "promotion": 2}
        listed = muxtable("versions", address, "--json").document
        assert listed["current"] == SECOND
        assert [each["state"] for each in listed["versions"]] == ["AVAILABLE", "AVAILABLE"]
        found = muxtable("lookup", "--server", address, "user", "-7", "--json").document
        assert (found["version"], found["lookups"], len(found["vector"])) == (SECOND, 3, 24)
        crossed = muxtable("lookup", "--server", address, "user_city", "7", "Paris", "--json")
        assert len(crossed.document["vector"]) == 16
        hour = muxtable("lookup", "--server", address, "hour", "2013-01-31T08:00", "--json")
        assert len(hour.document["vector"]) == 16
        assert muxtable("rollback", address, "--json").document["version"] == FIRST
        refused = muxtable("promote", address, "v-0000000009")
        assert (refused.code, "no version" in refused.err) == (2, True)
        assert "muxtable_promotion 3.0" in page(document["metrics"], "/metrics")[1]

        assert service.terminate() == 0

    assert muxtable("versions", tmp_path, "--json").document["current"] == FIRST
    done = muxtable("promote", tmp_path, SECOND, "--json")
    assert done.document == {"version": SECOND, "promotion": 4}
    assert muxtable("rollback", tmp_path, "--json").document["version"] == FIRST


def test_sigterm_lets_no_call_fail_in_the_middle(tmp_path):
    write_version(tmp_path, 1)
    failures, done = [], []
    with running(*quiet(tmp_path, "--grace-s", 5)) as service:
        stop = threading.Event()

        def call():
            with Client(service.address, timeout_s=0.5) as client:
                while not stop.is_set():
                    try:
                        client.lookup({"user": list(range(500))})
                        done.append(1)
                    except Exception as exc:  # noqa: BLE001
                        failures.append(exc)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        began = time.monotonic()
        code = service.terminate()
        took = time.monotonic() - began
        stop.set()
        for thread in threads:
            thread.join()

    assert code == 0
    assert took < 6
    assert done
    assert {type(failure).__name__ for failure in failures} <= {"UnavailableError"}


def test_several_processes_answer_on_one_port_and_switch_together(tmp_path):
    write_version(tmp_path, 1)
    arguments = (tmp_path, "--port", 0, "--health-port", 0, "--metrics-port", 0)
    with running(*arguments, "--processes", 2) as service:
        clients = [Client(service.address, channels=1) for _ in range(8)]
        write_version(tmp_path, 2)
        clients[0].load(SECOND)
        stamp = clients[0].promote(SECOND)

        found = [client.lookup({"user": [1]}) for client in clients]

        assert {(each.version, each.counter) for each in found} == {(SECOND, stamp.counter)}
        assert page(service.document["metrics"], "/ready")[0] == 200
        text = page(service.document["metrics"], "/metrics")[1]
        assert 'muxtable_calls_total{code="OK",method="Lookup"} 8.0' in text
        for client in clients:
            client.close()
        second = muxtable("serve", *quiet(tmp_path), "--port", service.address.split(":")[1])
        assert (second.code, "cannot listen" in second.err) == (1, True)
        assert service.terminate() == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--host", "0.0.0.0"), "encrypted"),
        (("--policy", "newest"), "--policy"),
        (("--policy", "pinned"), "--pin"),
        (("--tls-cert", "x"), "--tls-key"),
        (("--processes", "0"), "--processes"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, arguments, word):
    write_version(tmp_path, 1)

    done = muxtable("serve", *quiet(tmp_path), *arguments)

    assert done.code == 2
    assert word in done.err
