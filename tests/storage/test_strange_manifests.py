"""Manifests and headers made to hurt: paths, bombs, and changes with the right checksums."""

import base64
import hashlib
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import SnapshotError
from storage import canonical
from storage.bundle import BundleWriter, open_bundle
from storage.manifest import decode_manifest
from tests.golden.bundle_v1 import make_bundle
from tests.storage.damage import edit, mutate, overwrite
from tests.storage.faults import WatchedDisk

PATHS = [
    "../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "%2e%2e",
    "a..b",
    "\u2025x",
    "x\uff0ey",
    "x\u2024y",
    "A",
    "Ünicode",
    "a" * 300,
    "a b",
    "a\n",
    "-rf",
    ".hidden",
    "~root",
    "$HOME",
    "con:",
    "manifest.json",
    "fifo",
    "link.safetensors",
]


@pytest.mark.parametrize("name", PATHS, ids=lambda name: repr(name)[:20])
def test_a_path_in_the_manifest_is_refused_and_never_opened(bundle, name):
    os.mkfifo(bundle / "fifo")
    (bundle / "link.safetensors").symlink_to("/etc/passwd")
    here = {file.name for file in bundle.iterdir()}

    class Strict(WatchedDisk):
        def before(self, operation: str, arguments: tuple) -> None:
            if operation in ("open_file", "status") and arguments[0] != bundle:
                assert arguments[0] in here

    def rename_profile(document: dict) -> None:
        entry = next(entry for entry in document["files"] if entry["name"] == "profile.json")
        entry["name"] = name

    def rename_part(document: dict) -> None:
        document["tensors"][-1]["parts"][0]["file"] = name

    def rename_tensor(document: dict) -> None:
        document["tensors"][0]["name"] = name

    good = (bundle / "manifest.json").read_bytes()
    for change in (rename_profile, rename_part, rename_tensor):
        edit(bundle, change)
        with pytest.raises(SnapshotError):
            open_bundle(bundle, disk=Strict())
        overwrite(bundle / "manifest.json", good)


def manifest_with(text: str) -> bytes:
    """The golden manifest whose content is `text`, with the checksum of its text."""
    document = json.loads((Path(make_bundle.__file__).parent / "bundle/manifest.json").read_bytes())
    document["content"] = "@"
    document.pop("checksum")

    def insert(data: bytes) -> bytes:
        return data.replace(b'"@"', text.encode())

    checksum = hashlib.sha256(insert(canonical.encode(document))).hexdigest()
    return insert(canonical.encode({**document, "checksum": checksum}))


def many_files() -> bytes:
    document = json.loads(manifest_with("{}"))
    document["files"] = [
        {"crc32": "", "name": f"{i:x}", "sha256": "", "size": 0} for i in range(18_000)
    ]
    document.pop("checksum")
    document["checksum"] = hashlib.sha256(canonical.encode(document)).hexdigest()
    return canonical.encode(document)


BOMBS = {
    "nested lists": lambda: manifest_with("[" * 500_000 + "]" * 500_000),
    "nested objects": lambda: manifest_with('{"a":' * 150_000 + "1" + "}" * 150_000),
    "nested a little": lambda: manifest_with('{"a":' * 90 + "1" + "}" * 90),
    "a huge integer": lambda: manifest_with('{"a":' + "9" * 900_000 + "}"),
    "a huge float": lambda: manifest_with('{"a":1e999}'),
    "not a number": lambda: manifest_with('{"a":NaN}'),
    "a long fraction": lambda: manifest_with('{"a":0.' + "1" * 900_000 + "}"),
    "a key twice": lambda: manifest_with('{"a":1,"a":2}'),
    "a lone surrogate": lambda: manifest_with('{"a":"\\ud800"}'),
    "an escape": lambda: manifest_with('{"a":"\\u0061"}'),
    "a blank": lambda: manifest_with('{"a": 1}'),
    "keys out of order": lambda: manifest_with('{"b":1,"a":2}'),
    "a million entries": lambda: manifest_with('{"a":[' + "0," * 10**6 + "0]}"),
    "many entries": lambda: manifest_with("[" + "{}," * 300_000 + "{}]"),
    "18,000 files": many_files,
    "no UTF-8": lambda: manifest_with("{}")[:-1] + b"\xff}",
    "nothing": lambda: b"",
    "null": lambda: b"null",
    "a list": lambda: b"[1]",
    "cut": lambda: manifest_with("{}")[:100],
    "a byte order mark": lambda: b"\xef\xbb\xbf" + manifest_with("{}"),
    "a gigabyte": lambda: b" " * 2**30,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_manifest_made_to_hurt_is_refused_within_a_second(tmp_path, name):
    path = tmp_path / "b"
    path.mkdir()
    data = b"" if name == "a gigabyte" else BOMBS[name]()
    (path / "manifest.json").write_bytes(data)
    if name == "a gigabyte":
        os.truncate(path / "manifest.json", 2**30)

    began = time.perf_counter()
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        open_bundle(path)

    assert time.perf_counter() - began < 1


def test_the_manifest_the_bombs_are_made_of_is_sound():
    assert decode_manifest(manifest_with('{"a":1}'), "m").content == {"a": 1}


def test_a_newer_format_is_told_apart_from_damage(bundle):
    edit(bundle, lambda document: document.update(format_version=2))

    with pytest.raises(SnapshotError, match="format version 2; this muxtable reads 1"):
        open_bundle(bundle)


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory) -> Path:
    with BundleWriter(
        tmp_path_factory.mktemp("small"), "b", "checkpoint", "a", part_bytes=4096
    ) as writer:
        writer.add_tensor("weight", np.arange(3000, dtype=np.float32).reshape(-1, 3))
        writer.add_tensor("a", np.arange(3, dtype=np.uint8))
        writer.add_tensor("b", np.array(1.5))
        writer.add_file("p.json", b"{}")
        writer.commit({"a": [1, 2], "b": {"c": None}})
    return writer.path


FUZZ = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def use(path: Path) -> str:
    """Opens a bundle and reads all of it; says whether that was refused."""
    try:
        for verify in (True, "lazy"):
            with open_bundle(path, verify) as opened:
                for name in opened.tensor_names:
                    opened.tensor(name).sum()
                    opened.read_rows(name, 0, opened.entry(name).num_rows)
                for entry in opened.files:
                    if not entry.name.endswith(".safetensors"):
                        opened.file(entry.name)
    except SnapshotError:
        return "refused"
    return "read"


@settings(FUZZ, max_examples=2500)
@given(data=st.data())
def test_a_changed_manifest_with_the_right_checksum_is_read_or_refused_and_nothing_else(
    small_bundle, data
):
    manifest = small_bundle / "manifest.json"
    good = manifest.read_bytes()

    try:
        edit(
            small_bundle,
            lambda document: [mutate(data, document) for _ in range(data.draw(st.integers(1, 2)))],
        )
        use(small_bundle)
    finally:
        overwrite(manifest, good)


@settings(FUZZ, max_examples=500)
@given(data=st.data())
def test_a_changed_header_with_the_right_checksums_is_read_or_refused_and_nothing_else(
    small_bundle, data
):
    name = data.draw(st.sampled_from(sorted(f.name for f in small_bundle.glob("*.safetensors"))))
    file, manifest = small_bundle / name, small_bundle / "manifest.json"
    good, good_manifest = file.read_bytes(), manifest.read_bytes()
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])

    try:
        mutate(data, header)
        text = canonical.encode(header)
        text += b" " * data.draw(st.sampled_from([-(8 + len(text)) % 4096, 0, 4096]))
        claimed = data.draw(
            st.sampled_from([len(text), len(text), len(text), 0, 2**20, 2**63, 4088])
        )
        bad = claimed.to_bytes(8, "little") + text + good[8 + size :]
        overwrite(file, bad)

        def fix(document: dict) -> None:
            entry = next(entry for entry in document["files"] if entry["name"] == name)
            crcs = b"".join(
                zlib.crc32(bad[i : i + 2**20]).to_bytes(4, "little")
                for i in range(0, len(bad), 2**20)
            )
            entry["size"] = len(bad)
            entry["sha256"] = hashlib.sha256(bad).hexdigest()
            entry["crc32"] = base64.b64encode(crcs).decode()

        edit(small_bundle, fix)
        use(small_bundle)
    finally:
        overwrite(file, good)
        overwrite(manifest, good_manifest)


def test_the_changes_reach_both_ends(small_bundle):
    assert use(small_bundle) == "read"
    good = (small_bundle / "manifest.json").read_bytes()

    edit(small_bundle, lambda document: document["content"].update(a=3))
    harmless = use(small_bundle)
    edit(small_bundle, lambda document: document["tensors"][0]["shape"].append(2))
    harmful = use(small_bundle)
    overwrite(small_bundle / "manifest.json", good)

    assert (harmless, harmful) == ("read", "refused")
