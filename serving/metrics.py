"""Numbers of a service for Prometheus, with labels from fixed sets alone.

A caller can make no new series: methods and status codes are known beforehand, and names of
versions are no labels.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from serving.versions import Versions

_SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.064, 0.25, 1.0, 4.0)


class Metrics:
    """Counts the calls of one process, and says what is in force."""

    def __init__(self, methods: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        calls = Counter(
            "muxtable_calls", "Calls that ended.", ("method", "code"), registry=self.registry
        )
        seconds = Histogram(
            "muxtable_call_seconds",
            "Time from a thread's start on a call to its end.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        sent = Counter(
            "muxtable_reply_bytes", "Bytes of replies.", ("method",), registry=self.registry
        )
        self._calls = calls
        self._ended = {method: {"OK": calls.labels(method, "OK")} for method in methods}
        self._seconds = {method: seconds.labels(method) for method in self._ended}
        self._sent = {method: sent.labels(method) for method in self._ended}
        self._counter = Gauge(
            "muxtable_promotion",
            "Promotions and rollbacks so far.",
            registry=self.registry,
            multiprocess_mode="min",
        )
        self._available = Gauge(
            "muxtable_versions_available",
            "Versions that answer lookups.",
            registry=self.registry,
            multiprocess_mode="min",
        )
        self._load_failures = Gauge(
            "muxtable_load_failures",
            "Versions that could not be loaded since the start.",
            registry=self.registry,
            multiprocess_mode="max",
        )

    def tell(self, versions: Versions) -> None:
        """Shows what the process holds now."""
        self._counter.set(versions.force.counter)
        self._available.set(versions.num_available)
        self._load_failures.set(versions.num_failures)

    def ended(self, method: str, code: str, seconds: float, num_bytes: int) -> None:
        """Counts a call that ended with a status."""
        by_code = self._ended[method]
        if code not in by_code:
            by_code[code] = self._calls.labels(method, code)
        by_code[code].inc()
        self._seconds[method].observe(seconds)
        if num_bytes:
            self._sent[method].inc(num_bytes)


def page_of(registry: CollectorRegistry) -> Callable[[], bytes]:
    """Returns what writes the page of one process."""
    return lambda: generate_latest(registry)


def page_of_all(directory: str) -> Callable[[], bytes]:
    """Returns what writes the page of all processes that share a directory of numbers."""

    def page() -> bytes:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    return page
