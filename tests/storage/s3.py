"""A real S3 server: moto's, in a process of its own, on a free port."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from storage.objects import ObjectStore
from storage.places import ObjectPath
from storage.signing import Account, send

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Starts a server with the bucket "bucket" and names it in the environment; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = "import sys; from moto.server import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = {name: os.environ.get(name) for name in VARIABLES}
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
    }
    try:
        _wait_for(url, process)
        assert send(Account.from_environment(), "PUT", "/bucket", {}).status == 200
        yield url
    finally:
        process.kill()
        process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def objects(place: ObjectPath) -> dict[str, bytes]:
    """Returns all objects below a prefix: two levels, as bundles have."""
    store = ObjectStore.at_hand()
    found = {}
    for folder in ("", *store.folders(place)):
        at = place / folder if folder else place
        for name in store.sizes(at):
            held = store.read(at / name)
            assert held is not None
            found[f"{folder}/{name}" if folder else name] = held[0]
    return found


def _wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise AssertionError("the server did not start within 30 s")
