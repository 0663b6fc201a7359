"""The gRPC server of one process: threads, ports, TLS, and the handlers of every method.

Lookups have as many threads as there are cores: their kernels let go of the GIL, and more threads
would only take turns. Streams and commands have threads of their own, so that ten slow downloads
leave lookups alone. A call beyond `max_calls` is refused at once instead of waiting.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from features.errors import ConfigError, UnavailableError
from serving.access import Access, Role
from serving.admin import AdminService, Operations
from serving.guard import AccessLog, Guard
from serving.metrics import Metrics
from serving.pool import CallPool
from serving.service import ParameterService
from serving.settings import ServeSettings
from serving.stubs import admin_pb2, parameter_pb2
from serving.versions import Versions

logger = logging.getLogger(__name__)

PARAMETER = parameter_pb2.DESCRIPTOR.services_by_name["ParameterService"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
METHODS = (
    *(method.name for service in (PARAMETER, ADMIN) for method in service.methods),
    "ServerReflectionInfo",
)
# Methods that read their request themselves.
_READS_BYTES = ("Lookup",)
# Room in a message beside the rows that a limit is about.
HEAD_BYTES = 1 << 20
_NUM_COMMANDS = 2
_SPARE_CALLS = 8


class Server:
    """Serves the versions of this process; `start` once, `stop` once."""

    def __init__(
        self,
        settings: ServeSettings,
        versions: Versions,
        operations: Operations,
        metrics: Metrics | None,
        *,
        reuse_port: bool = False,
    ) -> None:
        """Raises ConfigError where certificates or the file of roles cannot be read."""
        self._settings = settings
        default = Role.ADMIN if settings.is_loopback else Role.READ
        guard = Guard(Access(settings.access, default), metrics, AccessLog(settings.access_log))
        self._pools: list[ThreadPoolExecutor] = [
            CallPool(settings.num_threads, "lookup"),
            # More threads than streams, so that one too many is refused instead of waiting.
            ThreadPoolExecutor(settings.max_streams + _SPARE_CALLS, "stream"),
            ThreadPoolExecutor(_NUM_COMMANDS, "command"),
        ]
        self._server = grpc.server(
            self._pools[0],
            maximum_concurrent_rpcs=settings.max_calls + settings.max_streams + _SPARE_CALLS,
            options=[
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.max_send_message_length", settings.max_reply_bytes + HEAD_BYTES),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        places = threading.BoundedSemaphore(settings.max_streams)
        parameter = ParameterService(versions)
        admin = AdminService(operations, versions)
        for service, methods in ((PARAMETER, parameter), (ADMIN, admin)):
            handlers = self._handlers(service, methods, guard, places)
            self._server.add_registered_method_handlers(service.full_name, handlers)
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.full_name, handlers),)
            )
        if settings.reflection:
            self._add_reflection(guard, places)
        self._credentials = _credentials(settings)

    def start(self, port: int | None = None) -> int:
        """Listens and answers; returns the port. UnavailableError where it is taken."""
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.port if port is None else port}"
        try:
            if self._credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as exc:
            raise UnavailableError(
                f"cannot listen on {address}", "end the process that does, or choose another port"
            ) from exc
        self._server.start()
        return int(bound)

    def stop(self, grace_s: float) -> None:
        """Refuses new calls and returns when those under way have ended, or the grace has."""
        self._server.stop(grace_s).wait()
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)

    def _handlers(
        self,
        service: ServiceDescriptor,
        methods: object,
        guard: Guard,
        places: threading.Semaphore,
    ) -> dict[str, Any]:
        lookups, streams, commands = self._pools
        handlers = {}
        for method in service.methods:
            act = getattr(methods, _snake(method.name))
            request_type: type[Message] = GetMessageClass(method.input_type)
            if method.server_streaming:
                handlers[method.name] = guard.stream(
                    method.name, request_type, act, streams, places
                )
            else:
                pool = commands if service is ADMIN else lookups
                kind = None if method.name in _READS_BYTES else request_type
                handlers[method.name] = guard.unary(method.name, kind, act, pool)
        return handlers

    def _add_reflection(self, guard: Guard, places: threading.Semaphore) -> None:
        from serving.reflection import add_reflection

        add_reflection(
            self._server, guard, self._pools[1], places, (PARAMETER.full_name, ADMIN.full_name)
        )


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _credentials(settings: ServeSettings) -> Any:
    """Returns the TLS credentials, read again at a handshake after the files changed."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        return None
    files = [cert, key, *([settings.client_ca] if settings.client_ca else [])]
    seen = [_stamps(files)]

    def read() -> Any:
        pair = ((key.read_bytes(), cert.read_bytes()),)
        ca = settings.client_ca.read_bytes() if settings.client_ca else None
        return grpc.ssl_server_certificate_configuration(pair, ca)

    def fetch() -> Any:
        try:
            stamps = _stamps(files)
            if stamps == seen[0]:
                return None
            config = read()
        except OSError as exc:
            logger.warning("the certificates were not read again: %s", exc)
            return None
        seen[0] = stamps
        logger.info("read the certificates again")
        return config

    try:
        first = read()
    except OSError as exc:
        raise ConfigError(f"cannot read {exc.filename}: {exc.strerror}", "check the path") from exc
    return grpc.dynamic_ssl_server_credentials(
        first, fetch, require_client_authentication=settings.client_ca is not None
    )


def _stamps(files: list[Path]) -> list[tuple[int, int]]:
    statuses = [file.stat() for file in files]
    return [(status.st_mtime_ns, status.st_ino) for status in statuses]
