"""Writes codecs.json: rows, their bytes and what these decode to, by the plain numpy twins.

    python -m tests.golden.make_codecs

The file is fixed: snapshots on disk depend on it. Codebooks and bases are made up, not trained, so
that no library has a say in them.
"""

import json
from pathlib import Path

import numpy as np

from native import codec_reference, codecs

FILE = Path(__file__).parent / "codecs.json"
WIDTH = 10
PLAIN = ("float32", "float16", "bfloat16", "int8", "int4", "int2", "float8")


def rows():
    """Returns float32[7, 10]: ordinary rows, a constant one, zeros, a denormal and a large one."""
    steps = np.arange(30).reshape(3, WIDTH)
    made = np.zeros((7, WIDTH), np.float32)
    made[:3] = np.sin(steps * 1.7) * [[0.05], [1], [40]]
    made[3] = -0.3
    made[5] = steps[0] * 2.0**-140
    made[6] = np.where(steps[0] == 4, 6e4, steps[0] - 5)
    return made


def shared():
    """Returns made-up arrays: codebook [5, 256, 2], rotation [10, 10], mean [10], basis [4, 10]."""
    entries = np.arange(5 * 256 * 2).reshape(5, 256, 2)
    codebook = (np.sin(entries * 0.37) * (1 + entries % 7)).astype(np.float32)
    # Reflections: orthonormal, and every entry a float.
    axes = np.ones((WIDTH, WIDTH))
    axes[:5, 5:] = axes[5:, :5] = 0
    rotation = (np.eye(WIDTH) - axes * 0.4).astype(np.float32)
    return {
        "codebook": codebook,
        "rotation": rotation,
        "mean": np.linspace(-0.25, 0.25, WIDTH).astype(np.float32),
        "basis": rotation[:4].copy(),
    }


def trees():
    """Returns the manifest's object of every codec, with the names of its shared arrays."""
    plain = {name: _tree(name, codecs.row_bytes(name, WIDTH)) for name in PLAIN}
    inner = {"name": "int8", "width": 4, "row_bytes": 12}
    inner8 = {"name": "float8", "width": 4, "row_bytes": 8}
    return [
        *((tree, ()) for tree in plain.values()),
        (_tree("binary", 4, refinements=0), ()),
        (_tree("binary", 13, refinements=3), ()),
        (_tree("pq", 5, parts=5, bits=8), ("codebook",)),
        (_tree("opq", 5, parts=5, bits=8), ("codebook", "rotation")),
        (_tree("pca", 12, dims=4, inner=inner), ("mean", "basis")),
        (_tree("pca", 8, dims=4, inner=inner8), ("mean", "basis")),
        (_tree("prefix", 9, lookups=2, inner=plain["int4"]), ()),
    ]


def _tree(name, row_bytes, **more):
    return {"name": name, "width": WIDTH, "row_bytes": row_bytes, **more}


def coded(tree, arrays, values):
    """Returns the coded rows and their values, by the twins."""
    name, zeros = tree["name"], np.zeros(WIDTH, np.float32)
    raw = np.zeros((len(values), tree["row_bytes"]), np.uint8)
    out = np.zeros_like(values)
    if name == "prefix":
        return coded(tree["inner"], arrays, values)
    if name == "pca":
        basis, mean = arrays["basis"], arrays["mean"]
        coordinates = np.zeros((len(values), len(basis)), np.float32)
        codec_reference.affine(values - mean, basis.T.copy(), zeros[: len(basis)], coordinates)
        raw, coordinates = coded(tree["inner"], arrays, coordinates)
        codec_reference.affine(coordinates, basis, mean, out)
    elif name in ("pq", "opq"):
        codebook, turned = arrays["codebook"], values
        if name == "opq":
            turned = np.zeros_like(values)
            codec_reference.affine(values, arrays["rotation"].T.copy(), zeros, turned)
        codec_reference.encode_pq(codebook, turned, raw)
        codec_reference.decode("pq", raw, out, codebook)
        if name == "opq":
            turned = out.copy()
            codec_reference.affine(turned, arrays["rotation"], zeros, out)
    else:
        codec_reference.encode(name, values, raw)
        codec_reference.decode(name, raw, out)
    return raw, out


def main():
    """Writes the file."""
    arrays, values = shared(), rows()
    cases = []
    for tree, names in trees():
        raw, decoded = coded(tree, arrays, values)
        cases.append(
            {
                "codec": tree,
                "shared": list(names),
                "raw": [row.tobytes().hex() for row in raw],
                "values": [row.astype("<f4").tobytes().hex() for row in decoded],
            }
        )
    document = {
        "rows": [row.astype("<f4").tobytes().hex() for row in values],
        "shared": {
            name: {"shape": list(array.shape), "data": array.astype("<f4").tobytes().hex()}
            for name, array in arrays.items()
        },
        "cases": cases,
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
