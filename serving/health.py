"""The ports that probes ask: grpc.health.v1 on one, GET /metrics, /ready and /live on another."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from features.errors import UnavailableError

READINESS = ("readiness", "muxtable.v1.ParameterService")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthPort:
    """grpc.health.v1: "" says that the process lives, "readiness" that lookups are answered."""

    def __init__(self, host: str, port: int) -> None:
        """Listens at once; UnavailableError where the port is taken."""
        self._servicer = health.HealthServicer()
        self._servicer.set("", _SERVING)
        self.set_ready(False)
        self._server = grpc.server(
            ThreadPoolExecutor(2, "health"),
            maximum_concurrent_rpcs=64,
            options=[("grpc.so_reuseport", 0)],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            self.port = int(self._server.add_insecure_port(f"{host}:{port}"))
        except RuntimeError as exc:
            raise UnavailableError(
                f"cannot listen on {host}:{port} for health checks", "choose another --health-port"
            ) from exc
        self._server.start()

    def set_ready(self, is_ready: bool) -> None:
        """Says whether lookups are answered."""
        for name in READINESS:
            self._servicer.set(name, _SERVING if is_ready else _NOT_SERVING)

    def stop(self) -> None:
        """Ends."""
        self._server.stop(None).wait()


class MetricsPort:
    """GET /metrics for Prometheus; /ready and /live with status 200 or 503."""

    def __init__(
        self, host: str, port: int, page: Callable[[], bytes], is_ready: Callable[[], bool]
    ) -> None:
        """Listens at once; UnavailableError where the port is taken."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, page())
                elif self.path == "/ready":
                    self._answer(*((200, b"ready\n") if is_ready() else (503, b"not ready\n")))
                elif self.path == "/live":
                    self._answer(200, b"live\n")
                else:
                    self._answer(404, b"there are /metrics, /ready and /live\n")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Probes come each second; they are no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as exc:
            raise UnavailableError(
                f"cannot listen on {host}:{port} for metrics", "choose another --metrics-port"
            ) from exc
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
