import threading
import time

import numpy as np
import pytest

from features.errors import DataError, NotFoundError, SnapshotError, StateError, UnavailableError
from serving.client import Client
from serving.stubs import parameter_pb2 as pb
from serving.wire import Wire
from storage.pointer import read_pointer
from tests.serving.service import connected, served, settings
from tests.serving.small import ROWS, WIDTH, vectors, write_version

FIRST, SECOND, THIRD = "v-0000000001", "v-0000000002", "v-0000000003"


def states(client):
    return {each.name: each.state for each in client.versions().versions}


def test_a_version_is_loaded_then_promoted_then_rolled_back(tmp_path):
    write_version(tmp_path, 1)
    with connected(tmp_path) as client:
        write_version(tmp_path, 2)

        with pytest.raises(StateError, match="START"):
            client.promote(SECOND)
        client.load(SECOND)
        assert client.lookup({"user": [5]}).version == FIRST
        assert client.lookup({"user": [5]}, version=SECOND).version == SECOND
        stamp = client.promote(SECOND)
        assert (stamp.version, stamp.counter) == (SECOND, 2)
        found = client.lookup({"user": [5]})
        assert (found.version, found.counter) == (SECOND, 2)
        assert client.lookup({"user": [5]}, version="previous").version == FIRST
        stamp = client.rollback()
        assert (stamp.version, stamp.counter) == (FIRST, 3)
        assert client.lookup({"user": [5]}).version == FIRST
        with pytest.raises(StateError, match="nothing was in force"):
            client.rollback()

    assert read_pointer(tmp_path).name == FIRST
    assert read_pointer(tmp_path).counter == 3


def test_a_restart_serves_what_was_promoted_last(tmp_path):
    write_version(tmp_path, 1)
    write_version(tmp_path, 2)
    with connected(tmp_path) as client:
        assert client.lookup({"user": [5]}).version == SECOND
        client.load(FIRST)
        client.promote(FIRST)

    with connected(tmp_path) as client:
        assert client.lookup({"user": [5]}).version == FIRST
        assert client.lookup({"user": [5]}).counter == 2
        client.rollback()
        assert client.lookup({"user": [5]}).version == SECOND


def test_a_version_says_what_became_of_it(tmp_path):
    write_version(tmp_path, 1)
    with connected(tmp_path) as client:
        write_version(tmp_path, 2)
        client.load(SECOND, label="canary")
        assert states(client) == {FIRST: pb.STATE_AVAILABLE, SECOND: pb.STATE_AVAILABLE}
        assert client.lookup({"user": [5]}, version="canary").version == SECOND
        client.unload(SECOND)
        for _ in range(100):
            if states(client)[SECOND] == pb.STATE_END:
                break
            time.sleep(0.02)
        assert states(client)[SECOND] == pb.STATE_END
        with pytest.raises(StateError, match="END"):
            client.lookup({"user": [5]}, version=SECOND)
        with pytest.raises(StateError, match="in force"):
            client.unload(FIRST)
        client.load(SECOND)
        assert states(client)[SECOND] == pb.STATE_AVAILABLE


def test_watching_tells_each_change(tmp_path):
    write_version(tmp_path, 1)
    write_version(tmp_path, 2)
    with served(tmp_path) as service:
        seen = []
        wire = Wire(f"127.0.0.1:{service.port}")

        def watch():
            try:
                for reply in wire.watch_versions():
                    seen.append(reply.stamp.version)
                    if seen[-1] == FIRST:
                        return
            except Exception as exc:  # noqa: BLE001
                seen.append(repr(exc))

        thread = threading.Thread(target=watch)
        thread.start()
        with Client(f"127.0.0.1:{service.port}") as client:
            client.load(FIRST)
            client.promote(FIRST)
        thread.join(10)
        wire.close()

    assert seen[0] == SECOND
    assert seen[-1] == FIRST


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_version_is_refused_and_the_old_one_serves_on(tmp_path, damage):
    write_version(tmp_path, 1)
    with connected(tmp_path) as client:
        write_version(tmp_path, 2)
        (file,) = [path for path in (tmp_path / SECOND).iterdir() if "rows" in path.name]
        data = bytearray(file.read_bytes())
        file.chmod(0o644)
        if damage == "flip":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        elif damage == "cut":
            file.write_bytes(data[:-4096])
        else:
            file.unlink()

        with pytest.raises(SnapshotError, match=file.name) as failed:
            client.load(SECOND)
        with pytest.raises(StateError, match="END"):
            client.promote(SECOND)

        assert str(tmp_path) not in str(failed.value)
        assert client.lookup({"user": [5]}).version == FIRST
        assert file.name in client.versions().versions[1].error


def test_a_version_of_other_features_needs_permission(tmp_path):
    write_version(tmp_path, 1)
    with connected(tmp_path) as client:
        write_version(tmp_path, 2, width=16)
        client.load(SECOND)

        with pytest.raises(StateError, match="features"):
            client.promote(SECOND)
        assert client.lookup({"user": [5]})["user"].shape == (1, 24)
        client.promote(SECOND, other_features=True)

        assert client.lookup({"user": [5]})["user"].shape == (1, 48)


def test_names_that_are_paths_reach_no_file(tmp_path):
    write_version(tmp_path, 1)
    names = [
        "../x",
        "/etc/passwd",
        "v-0000000001/../x",
        "%2e%2e",
        "",
        "v-1",
        "v-0000000001\0",
        "․․",
    ]
    with served(tmp_path) as service, Client(f"127.0.0.1:{service.port}") as client:
        wire = Wire(f"127.0.0.1:{service.port}")
        for name in names:
            with pytest.raises(DataError):
                client.load(name)
            with pytest.raises((NotFoundError, DataError)):
                list(wire.fetch_shard(FIRST, name, 0))
            with pytest.raises(DataError):
                list(wire.fetch_shard(name, "manifest.json", 0))
            if name:
                with pytest.raises((NotFoundError, DataError)):
                    client.lookup({"user": [5]}, version=name)
        wire.close()
        with pytest.raises(NotFoundError):
            client.load("v-0000000077")


def test_a_client_that_has_seen_a_promotion_gets_no_older_one(tmp_path):
    write_version(tmp_path, 1)
    with served(tmp_path) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        with pytest.raises(UnavailableError, match="promotion 1"):
            wire.get_manifest(pb.Choice(min_counter=2), 0.3)
        wire.close()


def test_nothing_in_force_is_no_default(tmp_path):
    with connected(tmp_path) as client:
        with pytest.raises(UnavailableError, match="no version is in force"):
            client.manifest()
        write_version(tmp_path, 1)
        client.load(FIRST)
        client.promote(FIRST)
        assert client.lookup({"user": [5]}).version == FIRST


def test_a_second_service_cannot_take_the_port(tmp_path):
    from serving.process import Service

    write_version(tmp_path, 1)
    with served(tmp_path) as service, pytest.raises(UnavailableError, match="cannot listen"):
        Service(settings(tmp_path, port=service.port))


def test_rows_can_be_had_by_their_numbers(tmp_path):
    write_version(tmp_path, 1)
    rows = np.array([0, 5002, 7, 7], np.int64)
    with served(tmp_path) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        request = pb.LookupRowsRequest(rows=rows.tobytes())
        reply = pb.LookupReply.FromString(wire.lookup_rows(request.SerializeToString(), 5))
        found = np.frombuffer(reply.rows, np.float32).reshape(4, WIDTH)
        assert np.array_equal(found, vectors(ROWS, WIDTH, 1)[rows])
        for bad in (np.array([ROWS]), np.array([-1])):
            request = pb.LookupRowsRequest(rows=bad.tobytes())
            with pytest.raises(DataError, match="no row"):
                wire.lookup_rows(request.SerializeToString(), 5)
        wire.close()
