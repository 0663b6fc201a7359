"""What happened to a bundle after it was written is noticed, and told with the file's name."""

import ast
import base64
import hashlib
import json
import os
import pickle
import random
import shutil
import socket
import time
import zlib
from collections.abc import Callable
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
from tests.storage.faults import WatchedDisk

ROOT = Path(__file__).resolve().parents[2]


def write(parent: Path, seed: int, name: str) -> tuple[Path, str]:
    """A bundle of about 300 KB in 8 files."""
    rng = np.random.default_rng(seed)
    with BundleWriter(parent, name, "checkpoint", "a", part_bytes=49_152) as writer:
        writer.add_tensor("weight", rng.random((4096, 16), dtype=np.float32))
        writer.add_tensor("small", rng.random(50))
        writer.add_file("profile.json", b'{"rows": 1234}' * 20)
        digest = writer.commit({"step": seed, "loss": 0.25})
    return parent / name, digest


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write(tmp_path, 1, "b")[0]


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


def test_one_flipped_bit_of_a_thousand_is_refused_naming_the_file(bundle):
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    files = [
        file for file in sorted(bundle.iterdir()) for _ in range(1 + file.stat().st_size // 9999)
    ]

    for i in range(1000):
        file = rng.choice(files)
        good = file.read_bytes()
        bit = rng.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        overwrite(file, bytes(bad))
        for read in (open_bundle, read_everything):
            with pytest.raises(SnapshotError) as refusal:
                read(bundle)
            assert file.name in refusal.value.what, f"seed {seed}, flip {i}, bit {bit}"
        overwrite(file, good)

    read_everything(bundle)
    open_bundle(bundle)


def test_without_checksums_a_flipped_bit_would_not_be_noticed(bundle):
    file = min(bundle.glob("*-weight.safetensors"))
    good = file.read_bytes()
    overwrite(file, good[:-1] + bytes([good[-1] ^ 1]))

    with open_bundle(bundle, verify=False) as opened:
        opened.read_rows("weight", 0, 4096)


def test_a_cut_at_every_page_and_a_longer_file_are_refused_naming_the_file(bundle):
    for file in sorted(bundle.iterdir()):
        good = file.read_bytes()
        for size in [*range(0, len(good), 4096), len(good) - 1]:
            overwrite(file, good[:size])
            for read in (open_bundle, read_everything):
                with pytest.raises(SnapshotError, match=file.name):
                    read(bundle)
        overwrite(file, good + b"\0")
        with pytest.raises(SnapshotError, match=file.name):
            open_bundle(bundle)
        overwrite(file, good)

    open_bundle(bundle)


def test_a_zeroed_block_is_refused_naming_the_file(bundle):
    for file in sorted(bundle.glob("*.safetensors")):
        good = file.read_bytes()
        for start in range(0, len(good), 4096):
            overwrite(
                file, good[:start] + bytes(len(good[start : start + 4096])) + good[start + 4096 :]
            )
            for read in (open_bundle, read_everything):
                with pytest.raises(SnapshotError, match=file.name):
                    read(bundle)
        overwrite(file, good)

    open_bundle(bundle)


def test_swapped_and_doubled_parts_are_refused_naming_the_file(bundle):
    first, second = sorted(bundle.glob("*-weight.safetensors"))[:2]
    one, two = first.read_bytes(), second.read_bytes()

    for a, b in [(two, one), (one, one), (two, two)]:
        overwrite(first, a)
        overwrite(second, b)
        for read in (open_bundle, read_everything):
            with pytest.raises(SnapshotError, match=r"weight\.safetensors"):
                read(bundle)


def test_files_of_another_step_are_refused_naming_the_file(tmp_path, bundle):
    other, other_digest = write(tmp_path, 2, "other")

    for file in sorted(bundle.iterdir()):
        good = file.read_bytes()
        overwrite(file, (other / file.name).read_bytes())
        if good == file.read_bytes():
            continue
        with pytest.raises(SnapshotError, match=r"safetensors|manifest\.json"):
            open_bundle(bundle)
        overwrite(file, good)
    with pytest.raises(SnapshotError, match=r"manifest\.json.*not the manifest that was committed"):
        open_bundle(bundle, True, other_digest)


def test_a_missing_file_is_refused_naming_it(bundle):
    for file in sorted(bundle.iterdir()):
        file.rename(bundle.parent / "away")
        with pytest.raises(SnapshotError, match=f"{file.name}.* is missing"):
            open_bundle(bundle, verify=False)
        (bundle.parent / "away").rename(file)

    open_bundle(bundle)


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "directory", "socket"])
def test_what_is_no_plain_file_is_refused_naming_it(bundle, kind, monkeypatch):
    file = bundle / "profile.json"
    away = bundle.parent / "away"
    file.rename(away)
    if kind == "link":
        file.symlink_to(away)
    elif kind == "hard link":
        file.hardlink_to(away)
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        monkeypatch.chdir(bundle)  # a socket's path may have 107 bytes only
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(file.name)

    with pytest.raises(SnapshotError, match=rf"profile\.json.* is a (\w+ )?{kind}"):
        open_bundle(bundle, verify=False)


@pytest.mark.parametrize(
    "name", ["00009-weight.safetensors", ".hidden", "manifest.json.bak", "x\ny"]
)
def test_a_foreign_file_is_refused_naming_it(bundle, name):
    (bundle / name).write_bytes(b"")

    with pytest.raises(SnapshotError) as refusal:
        open_bundle(bundle, verify=False)

    assert name in refusal.value.what
    assert "foreign" in refusal.value.what


@pytest.mark.parametrize("kind", ["nothing", "file", "link"])
def test_what_is_no_directory_is_no_bundle(bundle, kind):
    path = bundle.parent / "path"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "link":
        path.symlink_to(bundle)

    with pytest.raises(SnapshotError, match='path"'):
        open_bundle(path)


def test_a_file_that_changes_after_opening_is_refused_naming_it(bundle):
    opened = open_bundle(bundle)
    file = sorted(bundle.glob("*-weight.safetensors"))[1]
    overwrite(file, file.read_bytes())

    with pytest.raises(SnapshotError, match=f"{file.name}.*changed after"):
        opened.tensor("weight")
    with pytest.raises(SnapshotError, match=f"{file.name}.*changed after"):
        opened.read_rows("weight", 0, 4096)


def test_lazy_reads_look_only_at_what_they_touch(bundle):
    first, second = sorted(bundle.glob("*-weight.safetensors"))[:2]
    data = second.read_bytes()
    overwrite(second, data[:-1] + bytes([data[-1] ^ 1]))

    opened = open_bundle(bundle, "lazy")
    end = len(opened.parts("small")) + 700

    opened.read_rows("weight", 0, end)
    with pytest.raises(SnapshotError, match=f"{second.name}.*MiB 0"):
        opened.read_rows("weight", 0, end + 100)
    with pytest.raises(SnapshotError, match=second.name):
        opened.tensor("weight")
    assert first.exists()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_file_of_a_bundle_is_unpickled(tmp_path, bundle):
    canary = tmp_path / "canary"
    evil = pickle.dumps(Canary(canary))

    for file in sorted(bundle.iterdir()):
        good = file.read_bytes()
        overwrite(file, evil)
        for read in (open_bundle, read_everything):
            with pytest.raises(SnapshotError):
                read(bundle)
        overwrite(file, good)

    assert not canary.exists()
    pickle.loads(evil)
    assert canary.exists()


def test_storage_and_checkpoints_hold_no_call_that_runs_what_it_reads():
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "torch"}
    called = {"eval", "exec", "compile", "__import__"}

    for file in [
        *ROOT.glob("storage/*.py"),
        ROOT / "trainer/checkpoint.py",
        ROOT / "trainer/latest.py",
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden, file
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in called, file
            if isinstance(node, ast.keyword):
                assert node.arg not in ("allow_pickle", "shell"), file


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


def test_a_copy_without_links_is_as_good_as_the_bundle(tmp_path, bundle):
    shutil.copytree(bundle, tmp_path / "copy")

    open_bundle(tmp_path / "copy")
