"""What happened to a bundle after it was written is noticed, and told with the file's name."""

import ast
import os
import pickle
import random
import shutil
import socket
from pathlib import Path

import pytest

from features.errors import SnapshotError
from storage.bundle import open_bundle
from tests.storage.damage import overwrite, read_everything, write

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_copy_without_links_is_as_good_as_the_bundle(tmp_path, bundle):
    shutil.copytree(bundle, tmp_path / "copy")

    open_bundle(tmp_path / "copy")
