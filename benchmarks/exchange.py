"""The exchange of rows between ranks against TorchRec's row-wise tables.

    speed_w2_uniform      TorchRec's time of a step over ours, through shared memory
    speed_w2_uniform_net  the same over the process group (gloo), as between machines
    bytes_w2_uniform      TorchRec's bytes on the wire over ours, both over the process group
    ..._fp16              the same with our rows and gradients sent as float16

and so on for 4 ranks and for ids drawn by Zipf's law (1.05). A step is a lookup and its backward
pass with the update inside: 26 features of one value, width 32, 2048 samples a rank, 2 million
rows, row-wise Adagrad, one thread a rank; hashing is outside on both sides. TorchRec runs under
DistributedModelParallel with its fused kernel. Bytes are counted by the kernel on a loopback of
their own, all ranks together, TCP's headers included.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks import harness
from benchmarks.exchange_ranks import Case

_NAMESPACES = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])


def cases(quick: bool) -> list[Case]:
    """Returns the cases, few ranks first."""
    return [
        Case(
            world_size=world_size,
            ids=ids,
            rows=20_000 if quick else 2_000_000,
            width=32,
            num_features=26,
            batch_size=128 if quick else 2048,
            repeats=2 if quick else 9,
            steps=1 if quick else 4,
        )
        for world_size in (2, 4)
        for ids in ("uniform", "zipf")
    ]


def namespace() -> list[str]:
    """Returns the command that runs another one with a network of its own; none where that is
    not allowed."""
    for command in _NAMESPACES:
        try:
            done = subprocess.run([*command, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            return []
        if done.returncode == 0:
            return command
    return []


def measure(case: Case, prefix: Sequence[str]) -> tuple[dict[str, float], dict[str, object]]:
    """Returns the ratios of a case, and its row."""
    harness.progress(f"{case.world_size} ranks, {case.ids}")
    command = [*prefix, sys.executable, "-m", "benchmarks.exchange_ranks", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    theirs = found["torchrec"]
    key = f"w{case.world_size}_{case.ids}"
    ratios = {
        f"speed_{key}": theirs["seconds"] / found["shared"]["seconds"],
        f"speed_{key}_fp16": theirs["seconds"] / found["shared_fp16"]["seconds"],
        f"speed_{key}_net": theirs["seconds"] / found["network"]["seconds"],
        f"speed_{key}_net_fp16": theirs["seconds"] / found["network_fp16"]["seconds"],
        f"bytes_{key}": theirs["bytes"] / found["network"]["bytes"],
        f"bytes_{key}_fp16": theirs["bytes"] / found["network_fp16"]["bytes"],
    }
    row: dict[str, object] = {
        "ranks": case.world_size,
        "ids": case.ids,
        "distinct": found["distinct"],
        "bytes_counted": "own loopback" if prefix else "the machine's loopback",
    }
    for name in ("torchrec", "shared", "shared_fp16", "network", "network_fp16"):
        row[f"{name}_ms"] = found[name]["seconds"] * 1000
        row[f"{name}_mb"] = found[name]["bytes"] / 1e6
    return ratios, row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every case and prints the ratios."""
    options = harness.start("exchange", __doc__, arguments, threads=1)
    ratios: dict[str, float] = {}
    rows = []
    prefix = namespace()
    for case in cases(options.quick):
        found, row = measure(case, prefix)
        ratios |= found
        rows.append(row)
    harness.finish(options, ratios, rows)


if __name__ == "__main__":
    main()
