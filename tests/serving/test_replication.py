import hashlib
import itertools
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from features.errors import SnapshotError, UnavailableError
from serving.client import Client
from serving.replication import fetch_version, write_copy
from serving.wire import Wire
from storage.manifest import decode_manifest
from storage.snapshot import open_snapshot
from tests.serving.running import quiet, running
from tests.serving.service import served
from tests.serving.small import write_version

FIRST, SECOND, THIRD = "v-0000000001", "v-0000000002", "v-0000000003"


def content_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def until(condition, patience_s=15.0):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


def current(client):
    return client.versions().stamp.version


def test_a_version_is_fetched_byte_for_byte(tmp_path):
    write_version(tmp_path / "a", 1, "pq:2x8", rows=200_000)
    (tmp_path / "b").mkdir()
    with served(tmp_path / "a") as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        fetch_version(wire, FIRST, tmp_path / "b", threading.Event())
        wire.close()

    assert content_of(tmp_path / "b" / FIRST) == content_of(tmp_path / "a" / FIRST)
    assert [path.name for path in (tmp_path / "b").iterdir()] == [FIRST]


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path):
    write_version(tmp_path / "a", 1, rows=150_000)
    (tmp_path / "b").mkdir()
    rng = np.random.default_rng(3)
    starts = []
    with served(tmp_path / "a") as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        manifest = next(iter(wire.fetch_shard(FIRST, "manifest.json", 0))).data

        def pieces(file, offset):
            starts.append(offset)
            stream = wire.fetch_shard(FIRST, file, offset)
            for piece in itertools.islice(stream, int(rng.integers(0, 3))):
                yield piece.data
            stream.close()
            raise UnavailableError("the line was cut", "go on")

        write_copy(tmp_path / "b", FIRST, manifest, pieces, threading.Event())
        wire.close()

    assert content_of(tmp_path / "b" / FIRST) == content_of(tmp_path / "a" / FIRST)
    assert len([start for start in starts if start]) >= 2
    assert hashlib.sha256(manifest).hexdigest() == open_snapshot(tmp_path / "b" / FIRST).digest


def test_a_hundred_downloads_cut_at_random_places_all_arrive_whole(tmp_path):
    write_version(tmp_path / "a", 1, rows=20_000)
    expected = content_of(tmp_path / "a" / FIRST)
    rng = np.random.default_rng(7)
    with served(tmp_path / "a") as service:
        wire = Wire(f"127.0.0.1:{service.port}")

        def pieces(file, offset):
            most = int(rng.integers(1, 1 << 20))  # a piece that is cut in its middle
            for piece in wire.fetch_shard(FIRST, file, offset):
                yield piece.data[:most]
                if len(piece.data) > most or rng.random() < 0.3:
                    raise UnavailableError("the line was cut", "go on")

        for turn in range(100):
            target = tmp_path / f"b{turn}"
            target.mkdir()
            write_copy(target, FIRST, expected["manifest.json"], pieces, threading.Event())
            assert content_of(target / FIRST) == expected, f"download {turn}"
            shutil.rmtree(target)
        wire.close()


def anonymous(pid):
    """Bytes of a process's own memory: mapped versions are not in them."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("there is no RssAnon")


def p99_of(client, seconds=1.0):
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        client.lookup({"user": np.arange(100)})
        times.append(time.monotonic() - began)
    return float(np.quantile(times, 0.99))


def test_readers_that_hardly_read_cost_neither_memory_nor_others_their_time(tmp_path):
    num_readers, most_bytes = 4, 16 << 20
    write_version(tmp_path, 1, rows=3_000_000)
    largest = max((tmp_path / FIRST).iterdir(), key=lambda path: path.stat().st_size)
    assert largest.stat().st_size > 3 * most_bytes
    with (
        running(*quiet(tmp_path, "--max-streams", num_readers)) as service,
        Client(service.address) as client,
    ):
        p99_of(client)
        alone, beside = [], []
        wires = [Wire(service.address) for _ in range(num_readers)]
        before = anonymous(service.child.pid)
        for _ in range(5):
            alone.append(p99_of(client))
            streams = [wire.fetch_shard(FIRST, largest.name, 0) for wire in wires]
            read = sum(len(next(stream).data) for stream in streams)
            beside.append(p99_of(client))
            grown = anonymous(service.child.pid) - before
            for stream in streams:
                stream.close()
            assert read < num_readers * largest.stat().st_size
            assert grown < num_readers * most_bytes, f"{grown:,} bytes for {num_readers} readers"
        for wire in wires:
            wire.close()

    # A machine that is busy with others makes a p99 of its own: a quiet one holds 1.2.
    assert np.median(beside) < 3 * np.median(alone)


def test_what_comes_altered_is_refused_and_leaves_nothing(tmp_path):
    write_version(tmp_path / "a", 1)
    (tmp_path / "b").mkdir()
    manifest = (tmp_path / "a" / FIRST / "manifest.json").read_bytes()

    def altered(file, offset):
        data = bytearray((tmp_path / "a" / FIRST / file).read_bytes())
        data[-1] ^= 1
        yield bytes(data[offset:])

    def too_much(file, offset):
        yield (tmp_path / "a" / FIRST / file).read_bytes() + b"x"

    for pieces in (altered, too_much):
        with pytest.raises(SnapshotError, match=r"sha256|more than"):
            write_copy(tmp_path / "b", FIRST, manifest, pieces, threading.Event())

    assert list((tmp_path / "b").iterdir()) == []


def test_a_version_that_is_removed_while_it_is_sent_arrives_whole(tmp_path):
    write_version(tmp_path, 1, rows=400_000)
    write_version(tmp_path, 2)
    with served(tmp_path, max_streams=2) as service:
        wire = Wire(f"127.0.0.1:{service.port}")
        with Client(f"127.0.0.1:{service.port}") as client:
            client.load(FIRST)
            reply = client.manifest(FIRST)
            files = decode_manifest(reply.manifest, "").files
            largest = max(files, key=lambda entry: entry.size)
            stream = wire.fetch_shard(FIRST, largest.name, 0)
            data = bytearray(next(stream).data)
            client.unload(FIRST)
            for path in (tmp_path / FIRST).iterdir():
                path.unlink()
            for piece in stream:
                data += piece.data
        wire.close()

    assert hashlib.sha256(data).hexdigest() == largest.sha256


def test_a_service_follows_a_directory(tmp_path):
    write_version(tmp_path / "a", 1)
    with (
        served(tmp_path / "a", follow=str(tmp_path / "a"), poll_s=0.05) as service,
        Client(f"127.0.0.1:{service.port}") as client,
    ):
        assert current(client) == FIRST
        write_version(tmp_path / "a", 2)
        until(lambda: current(client) == SECOND)
        client.rollback()
        time.sleep(0.3)
        assert current(client) == FIRST  # a rollback is not undone
        client.pin(FIRST)
        write_version(tmp_path / "a", 3)
        time.sleep(0.3)
        assert current(client) == FIRST
        client.pin("")
        until(lambda: current(client) == THIRD)


def test_a_service_follows_another_one(tmp_path):
    write_version(tmp_path / "a", 1)
    with served(tmp_path / "a") as service:
        address = f"127.0.0.1:{service.port}"
        with served(tmp_path / "b", follow=address, poll_s=0.05) as replica:
            clients = Client(address), Client(f"127.0.0.1:{replica.port}")
            first, second = clients
            until(lambda: current(second) == FIRST)
            write_version(tmp_path / "a", 2)
            first.load(SECOND)
            first.promote(SECOND)
            until(lambda: current(second) == SECOND)
            a, b = (client.lookup({"user": [1, 2]}) for client in clients)
            assert a.digest == b.digest
            assert np.array_equal(a["user"], b["user"])
            for client in clients:
                client.close()


def test_a_damaged_newcomer_is_left_alone(tmp_path):
    write_version(tmp_path / "a", 1)
    write_version(tmp_path / "source", 2)
    path = next(p for p in (tmp_path / "source" / SECOND).iterdir() if "rows" in p.name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    options = {"follow": str(tmp_path / "source"), "poll_s": 0.05}
    with (
        served(tmp_path / "a", **options) as service,
        Client(f"127.0.0.1:{service.port}") as client,
    ):
        time.sleep(0.5)
        assert current(client) == FIRST
        assert not (tmp_path / "a" / SECOND).exists()
        write_version(tmp_path / "source", 3)
        until(lambda: current(client) == THIRD)


@pytest.mark.parametrize("policy", ["manual", "pinned"])
def test_other_policies_promote_less(tmp_path, policy):
    write_version(tmp_path, 1)
    options = {"policy": policy, "follow": str(tmp_path), "poll_s": 0.05}
    if policy == "pinned":
        options["pin"] = SECOND
    with served(tmp_path, **options) as service, Client(f"127.0.0.1:{service.port}") as client:
        if policy == "manual":
            until(lambda: [each.name for each in client.versions().versions] == [FIRST])
        assert current(client) == ""
        write_version(tmp_path, 2)
        write_version(tmp_path, 3)
        if policy == "pinned":
            until(lambda: current(client) == SECOND)
        else:
            until(lambda: THIRD in [each.name for each in client.versions().versions])
            assert current(client) == ""
