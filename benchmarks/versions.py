"""How a service changes versions: loading, swapping, sharing memory, replicating.

    python -m benchmarks.versions [--quick] [--json] [--threads N]

Snapshots of int8 rows, made of numbers that need no training: 2 GB, and 8 GB where the disk has
room. Cold means that the kernel was told to forget the files (posix_fadvise) before.

ready_cold_2gb, _warm_2gb   from a load to AVAILABLE, verified and warmed, against reading the files
ready_cold_8gb, _warm_8gb   once from the same state (at most 3)
ready_vs_sha256_2gb, _8gb   the warm load against hashing the same bytes by as many threads
pause_ms_2gb                longest pause of a thread that looks up 6,656 rows at a time while the
                            next version is loaded cold
first_batch                 the first batch after a switch against the median batch
resident_1, resident_3      resident memory of 1 and of 3 processes, each page counted once, against
                            the size of the snapshot
p99_swaps                   p99 of lookups while versions are promoted and rolled back all the time,
                            against steady
replicate_vs_stream         bytes/s of FetchShard into verified files against a bare gRPC stream
fetch_vs_stream             bytes/s of FetchShard alone against it
"""

import hashlib
import os
import shutil
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import harness
from benchmarks.serving_peers import CEILING, bare_grpc, service
from features.batches import KeyColumn
from features.regions import Placement, Region
from features.routing import Layout
from features.schema import Feature
from native.memory import tune_allocator
from serving.client import Client
from serving.replication import fetch_version
from serving.settings import ServeSettings
from serving.stubs import parameter_pb2 as pb
from serving.supervisor import Supervisor
from serving.table import Limits
from serving.versions import Force, Versions
from serving.wire import Wire, channel_options
from storage.codecs.registry import codec_named
from storage.manifest import decode_manifest
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot

WIDTH = 32
ROW_BYTES = WIDTH + 8
IDS = 6656
GB = 10**9


def main() -> None:
    """Runs the benchmark."""
    options = harness.start("versions", __doc__)
    ratios: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=harness.ROOT / "build")))
        sizes = {"2gb": GB // 50, "8gb": GB // 25} if options.quick else {"2gb": 2 * GB}
        if not options.quick and shutil.disk_usage(folder).free > 22 * GB:
            sizes["8gb"] = 8 * GB
        for name, size in sizes.items():
            harness.progress(f"writing two versions of {name}")
            for step in (1, 2):
                write(folder / name, step, size // ROW_BYTES)
            _loads(folder / name, name, ratios, rows)
            if name == "2gb":
                _pauses(folder / name, ratios, rows)
                _resident(folder / name, ratios, rows)
                _replication(folder / name, options.threads, ratios, rows, stack)
            shutil.rmtree(folder / name)
        write(folder / "swap", 1, 100_000)
        write(folder / "swap", 2, 100_000)
        _swaps(folder / "swap", options, ratios, rows)
    harness.finish(options, ratios, rows)


def write(folder: Path, step: int, num_rows: int) -> str:
    """Writes a version of that many int8 rows."""
    block = np.random.default_rng(step).normal(0, 0.05, (65_536, WIDTH)).astype(np.float32)

    def read_rows(first: int, end: int) -> np.ndarray:
        return block[np.arange(first, end) % len(block)]

    feature = Feature(name="id", kind="categorical", columns=("id",), num_lookups=1, salt_name="id")
    layout = Layout.assemble(
        width=WIDTH,
        hash_seed=0,
        regions=[Region(name="shared", kind="shared", base=0, rows=num_rows, width=WIDTH)],
        placements=[Placement(feature=feature, region="shared", key_class="int")],
        vocabularies={},
    )
    source = Source(
        layout=layout,
        codec=codec_named("int8")(WIDTH),
        read_rows=read_rows,
        lineage=Lineage(run="benchmark", job="0" * 64, step=step, checkpoint=f"{step:064x}"),
    )
    name = f"v-{step:010d}"
    write_snapshot(folder, name, source, threads=2)
    return name


def _forget(path: Path) -> None:
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _read_once(path: Path) -> float:
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    for file in path.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - began


def _hash_once(path: Path) -> float:
    """Returns the seconds of hashing the files by as many threads as a load does."""
    files = sorted(path.iterdir(), key=lambda file: -file.stat().st_size)
    began = time.perf_counter()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(_hash, files))
    return time.perf_counter() - began


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _loads(folder: Path, name: str, ratios: dict[str, float], rows: list[dict[str, Any]]) -> None:
    path = folder / "v-0000000001"
    for state in ("cold", "warm"):
        reads: list[float] = []
        loads: list[float] = []
        hashes: list[float] = []
        for _ in range(3):
            if state == "cold":
                _forget(path)
            reads.append(_read_once(path))
            if state == "cold":
                _forget(path)
            versions = Versions(folder, Limits())
            began = time.perf_counter()
            versions.load(path.name)
            loads.append(time.perf_counter() - began)
            versions.close()
            del versions  # what is mapped cannot be forgotten
            if state == "warm":
                hashes.append(_hash_once(path))
        if hashes:
            ratios[f"ready_vs_sha256_{name}"] = statistics.median(loads) / statistics.median(hashes)
        ratios[f"ready_{state}_{name}"] = statistics.median(loads) / statistics.median(reads)
        rows.append(
            {
                "case": f"load {name}",
                "state": state,
                "ready_s": round(statistics.median(loads), 3),
                "read_s": round(statistics.median(reads), 3),
            }
        )


def _pauses(folder: Path, ratios: dict[str, float], rows: list[dict[str, Any]]) -> None:
    first, second = "v-0000000001", "v-0000000002"
    tune_allocator()  # as a service does: new memory for each batch would wait for the load's
    _forget(folder / second)
    versions = Versions(folder, Limits())
    versions.load(first)
    versions.switch(Force(version=first, counter=1))
    ids = np.random.default_rng(0).integers(0, 2**40, (16, IDS)).astype(np.uint64)
    times: list[tuple[float, float]] = []
    stop = threading.Event()

    def look_up() -> None:
        turn = 0
        while not stop.is_set():
            began = time.perf_counter()
            with versions.using(pb.Choice(), None) as (held, _):
                table = held.table
                assert table is not None
                snapshot = table.snapshot
                found = snapshot.layout.rows_of("id", KeyColumn(ids[turn % 16]))[0]
                snapshot.codec.gather(snapshot.rows, found)
            times.append((began, time.perf_counter() - began))
            turn += 1

    thread = threading.Thread(target=look_up)
    thread.start()
    time.sleep(1)
    began = time.perf_counter()
    versions.load(second)
    loaded = time.perf_counter()
    versions.switch(Force(version=second, previous=first, counter=2))
    switched = time.perf_counter()
    time.sleep(1)
    stop.set()
    thread.join()
    versions.unload(first)
    time.sleep(0.5)
    versions.close()
    steady = [took for at, took in times if at < began]
    during = [took for at, took in times if began <= at < loaded]
    after = [took for at, took in times if at >= switched]
    ratios["pause_ms_2gb"] = max(during) * 1e3
    ratios["first_batch"] = after[0] / statistics.median(steady)
    rows.append(
        {
            "case": "load while serving",
            "steady_p50_ms": round(statistics.median(steady) * 1e3, 2),
            "steady_max_ms": round(max(steady) * 1e3, 2),
            "longest_ms": round(max(during) * 1e3, 2),
            "first_after_ms": round(after[0] * 1e3, 2),
            "ready_s": round(loaded - began, 2),
        }
    )


def _resident(folder: Path, ratios: dict[str, float], rows: list[dict[str, Any]]) -> None:
    size = sum(file.stat().st_size for file in (folder / "v-0000000001").iterdir())
    settings = {"port": 0, "health_port": None, "metrics_port": None, "policy": "pinned"}
    for count in (1, 3):
        chosen = ServeSettings.model_validate(
            {"directory": folder, "pin": "v-0000000001", "processes": count, **settings}
        )
        with Supervisor(chosen) as supervisor:
            resident = sum(_proportional_bytes(pid) for pid in supervisor.pids)
        ratios[f"resident_{count}"] = resident / size
        rows.append(
            {
                "case": f"{count} processes",
                "resident_mb": resident // 10**6,
                "file_mb": size // 10**6,
            }
        )


def _proportional_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _replication(
    folder: Path,
    threads: int,
    ratios: dict[str, float],
    rows: list[dict[str, Any]],
    stack: ExitStack,
) -> None:
    name = "v-0000000001"
    wire = Wire(stack.enter_context(service(folder, threads=threads)))
    bare = stack.enter_context(bare_grpc({}, threads))
    channel = grpc.insecure_channel(bare, channel_options(0, 1 << 28))
    files = decode_manifest(wire.get_manifest(pb.Choice(), 30).manifest, "").files
    size = sum(entry.size for entry in files)

    def fetched() -> None:
        for entry in files:
            for _ in wire.fetch_shard(name, entry.name, 0):
                pass

    def copied() -> None:
        with tempfile.TemporaryDirectory(dir=harness.ROOT / "build") as target:
            fetch_version(wire, name, Path(target), threading.Event())

    def streamed() -> None:
        call = channel.unary_stream(f"{CEILING}stream", None, None)
        for _ in call(str(size >> 20).encode()):
            pass

    calls = {"fetch": fetched, "replicate": copied, "stream": streamed}
    times = harness.compare(calls, 3, warmup=1)
    for side in ("fetch", "replicate"):
        ratios[f"{side}_vs_stream"] = times["stream"] / times[side]
    for side, seconds in times.items():
        rows.append({"case": side, "mb_s": round(size / seconds / 1e6)})


def _swaps(
    folder: Path, options: harness.Options, ratios: dict[str, float], rows: list[dict[str, Any]]
) -> None:
    seconds = 1.0 if options.quick else 10.0
    with ExitStack() as stack:
        address = stack.enter_context(
            service(folder, threads=options.threads, policy="pinned", pin="v-0000000001")
        )
        operator = stack.enter_context(Client(address))
        operator.load("v-0000000002")
        times: list[tuple[float, float]] = []
        stop = threading.Event()
        ids = np.random.default_rng(0).integers(0, 2**40, IDS)

        def look_up() -> None:
            with Client(address, dedup=False) as client:
                while not stop.is_set():
                    began = time.perf_counter()
                    client.lookup({"id": ids})
                    times.append((began, time.perf_counter() - began))

        threads = [threading.Thread(target=look_up) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        began = time.perf_counter()
        num_swaps = 0
        while time.perf_counter() - began < seconds:
            operator.promote("v-0000000002")
            operator.rollback()
            num_swaps += 2
            time.sleep(0.06)
        ended = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
    steady = [took for at, took in times if not began <= at <= ended]
    swapping = [took for at, took in times if began <= at <= ended]
    p99 = {
        name: float(np.percentile(each, 99))
        for name, each in {"steady": steady, "swapping": swapping}.items()
    }
    ratios["p99_swaps"] = p99["swapping"] / p99["steady"]
    rows.append(
        {
            "case": "swaps",
            "swaps": num_swaps,
            "steady_p99_ms": round(p99["steady"] * 1e3, 2),
            "p99_ms": round(p99["swapping"] * 1e3, 2),
        }
    )


if __name__ == "__main__":
    main()
