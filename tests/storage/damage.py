"""Bundles to be damaged, and what changes their files and manifests."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from storage import canonical
from storage.bundle import BundleWriter, open_bundle


def write(parent: Path, seed: int, name: str) -> tuple[Path, str]:
    """A bundle of about 300 KB in 8 files."""
    rng = np.random.default_rng(seed)
    with BundleWriter(parent, name, "checkpoint", "a", part_bytes=49_152) as writer:
        writer.add_tensor("weight", rng.random((4096, 16), dtype=np.float32))
        writer.add_tensor("small", rng.random(50))
        writer.add_file("profile.json", b'{"rows": 1234}' * 20)
        digest = writer.commit({"step": seed, "loss": 0.25})
    return parent / name, digest


def overwrite(file: Path, data: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(data)


def read_everything(path: Path, digest: str | None = None) -> None:
    """Opens lazily and touches all there is."""
    with open_bundle(path, "lazy", digest) as opened:
        for name in opened.tensor_names:
            opened.read_rows(name, 0, opened.entry(name).num_rows)
        for entry in opened.files:
            if not entry.name.endswith(".safetensors"):
                opened.file(entry.name)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Changes the manifest and gives it the checksum of its new text."""
    document = json.loads((path / "manifest.json").read_bytes())
    change(document)
    document.pop("checksum", None)
    document["checksum"] = hashlib.sha256(canonical.encode(document)).hexdigest()
    overwrite(path / "manifest.json", canonical.encode(document))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.sampled_from([2**31, 2**50, 2**63, 2**64, -1, 10**300, 0.5, 1e300, 4096, 49_152])
    | st.sampled_from(["", "a", "..", "weight", "F32", "F64", "U8", "BOOL", "AAAA", "0" * 64, "\0"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(node: object, path: tuple = ()) -> list[tuple]:
    """Returns the paths of all values in a document."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


def mutate(data: st.DataObject, document: dict) -> None:
    """Replaces, removes, doubles or exchanges one value somewhere."""
    *path, key = data.draw(st.sampled_from(places(document)[1:]))
    parent: object = document
    for part in path:
        parent = parent[part]
    kind = data.draw(st.sampled_from(["replace", "remove", "insert", "exchange", "near"]))
    if kind == "remove":
        del parent[key]
    elif kind == "insert" and isinstance(parent, list):
        parent.insert(key, data.draw(st.sampled_from([*parent, None])))
    elif kind == "insert":
        parent[data.draw(st.text(max_size=5))] = data.draw(JSON)
    elif kind == "exchange":
        other = data.draw(st.sampled_from(places(document)[1:]))
        value: object = document
        for part in other:
            value = value[part]
        parent[key] = json.loads(json.dumps(value))
    elif kind == "near" and type(parent[key]) is int:
        parent[key] += data.draw(st.sampled_from([-1, 1, -4096, 4096, 2**32, 2**62]))
    else:
        parent[key] = data.draw(JSON)
