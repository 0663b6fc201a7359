"""The object store, held to a real server over real sockets."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from features.errors import ConfigError
from storage.objects import ObjectStore
from storage.places import ObjectPath, place_of
from storage.signing import Account, signed_headers
from tests.storage.s3 import s3_server


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def root(request) -> ObjectPath:
    return ObjectPath("bucket", f"test/{request.node.name}")


def test_an_object_is_read_as_it_was_written_in_any_ranges(root):
    store = ObjectStore.at_hand()
    data = bytes(range(256)) * 80_000  # 20 MB: several parts of an upload

    pieces = [data[i : i + 2**20] for i in range(0, len(data), 2**20)]
    store.write(root / "x", iter(memoryview(piece) for piece in pieces))

    file = store.open(root / "x")
    for offset, size in [(0, 10), (8 * 2**20 - 3, 7), (len(data) - 5, 5), (3, 9_000_000), (2, 0)]:
        buffer = bytearray(size)
        assert file.read(memoryview(buffer), offset) == size
        assert bytes(buffer) == data[offset : offset + size]
    assert file.read(memoryview(bytearray(10)), len(data) - 4) == 4
    assert file.read(memoryview(bytearray(10)), len(data) + 4) == 0
    file.close()
    assert store.sizes(root) == {"x": len(data)}


def test_a_put_happens_only_under_its_condition(root):
    store = ObjectStore.at_hand()
    path = root / "current"

    first = store.put_if(path, b"1", None)
    assert first is not None
    assert store.put_if(path, b"2", None) is None
    assert store.put_if(path, b"2", '"other"') is None
    second = store.put_if(path, b"2", first)
    assert second not in (None, first)
    assert store.put_if(path, b"3", first) is None
    assert store.read(path) == (b"2", second)
    assert store.put_if(root / "none", b"x", first) is None


def test_of_many_puts_under_one_condition_exactly_one_happens(root):
    store = ObjectStore.at_hand()
    etag = store.put_if(root / "current", b"0", None)
    barrier = threading.Barrier(8)

    def put(i: int) -> str | None:
        barrier.wait()
        return store.put_if(root / "current", f"writer {i}".encode(), etag)

    with ThreadPoolExecutor(8) as pool:
        won = [etag for etag in pool.map(put, range(8)) if etag is not None]

    assert len(won) == 1
    assert store.read(root / "current")[1] == won[0]


def test_what_is_not_there_is_nothing_but_a_missing_bucket_is_told(root):
    store = ObjectStore.at_hand()

    assert store.read(root / "x") is None
    assert store.sizes(root) == {}
    assert store.folders(root) == []
    store.remove(root / "x")
    for call in (
        lambda: store.read(ObjectPath("no-bucket", "x")),
        lambda: store.put_if(ObjectPath("no-bucket", "x"), b"", None),
        lambda: store.write(ObjectPath("no-bucket", "x"), iter([memoryview(b"x")])),
    ):
        with pytest.raises(OSError, match=r"(?i)bucket"):
            call()


def test_odd_keys_are_signed_as_they_are_sent(root):
    store = ObjectStore.at_hand()
    for name in ("a b", "a+b", "a%20b", "ä", "a=b&c"):
        assert store.put_if(root / name, name.encode(), None) is not None
        assert store.read(root / name)[0] == name.encode()


def test_a_signature_is_the_one_of_the_documentation():
    # "GET object" of the examples in the Amazon S3 API reference, its Range header included.
    account = Account(
        access_key="AKIAIOSFODNN7EXAMPLE",
        secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        session_token=None,
        region="us-east-1",
        endpoint="https://examplebucket.s3.amazonaws.com",
    )

    headers = signed_headers(
        account,
        "GET",
        "/test.txt",
        {"Range": "bytes=0-9"},
        b"",
        datetime(2013, 5, 24, tzinfo=UTC),
    )

    assert headers["authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_credentials_and_endpoints_that_are_none_are_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        Account.from_environment()

    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"):
        Account.from_environment()


def test_places_are_folders_or_prefixes():
    base = Path("/base")

    assert place_of("runs/a", base) == Path("/base/runs/a")
    assert place_of("/runs/a", base) == Path("/runs/a")
    path = place_of("s3://bucket/a/b/", base)
    assert (str(path), path.name, str(path.parent)) == ("s3://bucket/a/b", "b", "s3://bucket/a")
    assert str(path / "c") == "s3://bucket/a/b/c"
    assert str(place_of("s3://bucket", base) / "c") == "s3://bucket/c"
    for text in ("gs://bucket/a", "s3://", "s3://B/a", "s3://bucket/a//b", "s3://bucket/../b"):
        with pytest.raises(ConfigError):
            place_of(text, base)
