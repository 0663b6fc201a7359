"""gRPC reflection behind the same guard as every other method."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from serving.guard import Guard

_SERVICE = "grpc.reflection.v1alpha.ServerReflection"
_METHOD = "ServerReflectionInfo"


def add_reflection(
    server: grpc.Server,
    guard: Guard,
    pool: ThreadPoolExecutor,
    places: threading.Semaphore,
    services: tuple[str, ...],
) -> None:
    """Lets a server describe its services to callers who may read."""
    servicer = reflection.ReflectionServicer((*services, _SERVICE))

    def act(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        parsed = (
            reflection_pb2.ServerReflectionRequest.FromString(request) for request in requests
        )
        for reply in servicer.ServerReflectionInfo(parsed, context):
            yield reply.SerializeToString()

    handler = guard.both_ways(_METHOD, act, pool, places)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),)
    )
