"""Writes the bundle that every later version must read: `python` this file.

Format version 1. Run it only to add a file of a new version beside this one; the bytes below
`bundle/` never change. Git keeps no modes, so the files are writable here and 0444 elsewhere.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def arrays() -> dict[str, np.ndarray]:
    """Returns the tensors of the bundle: every dtype, strides, no rows, no axes."""
    table = (np.arange(300 * 16, dtype=np.float32).reshape(300, 16) - 2400) / 7
    return {
        "weight": table[:, :3],
        "momentum": np.sqrt(np.arange(1500, dtype=np.float64))[::-1],
        "keys": np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64),
        "step": np.array(-3, dtype=np.int64),
        "none": np.zeros((0, 4), dtype=np.float32),
        "flags": np.array([True, False, True]),
        "half": np.array([1.5, -2.0, 65504.0], dtype=np.float16),
        "bytes": np.arange(5, dtype=np.uint8),
        "signed_bytes": np.array([-128, 127], dtype=np.int8),
        "short": np.array([[-1, 2], [3, -4]], dtype=np.int16),
        "unsigned_short": np.array([65535], dtype=np.uint16),
        "int": np.array([-(2**31), 2**31 - 1], dtype=np.int32),
        "unsigned_int": np.array([2**32 - 1], dtype=">u4"),
    }


CONTENT = {"note": "gölden", "numbers": [1, -2.5, 1e300, None, True], "nested": {"a": {}}}
PROFILE = b'{"rows":3}'


def write(parent: Path) -> str:
    """Writes the bundle `bundle` into `parent`; returns the digest of its manifest."""
    from storage.bundle import BundleWriter

    with BundleWriter(
        parent, "bundle", "checkpoint", "golden", "ab" * 32, part_bytes=2048
    ) as writer:
        for name, array in arrays().items():
            writer.add_tensor(name, array)
        writer.add_file("profile.json", PROFILE)
        return writer.commit(CONTENT)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2]))
    shutil.rmtree(HERE / "bundle", ignore_errors=True)
    sys.stdout.write(write(HERE) + "\n")
