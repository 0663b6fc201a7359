import os
import random
import zlib

import pytest

from features.errors import SnapshotError
from storage import canonical
from storage.pointer import POINTER, Pointer, read_pointer, write_pointer

DIGEST = "0123456789abcdef" * 4


def test_a_pointer_is_read_as_it_was_written(tmp_path):
    assert read_pointer(tmp_path) is None
    assert read_pointer(tmp_path / "nowhere") is None

    write_pointer(tmp_path, "step-1", DIGEST, 3)
    write_pointer(tmp_path, "step-2", DIGEST, 4)

    assert read_pointer(tmp_path) == Pointer(name="step-2", digest=DIGEST, counter=4)
    assert [path.name for path in tmp_path.iterdir()] == [POINTER]


def test_the_bytes_of_a_pointer_are_fixed(tmp_path):
    write_pointer(tmp_path, "step-0000000007", DIGEST, 2)

    assert (tmp_path / POINTER).read_bytes() == (
        b'{"check":3366178691,"counter":2,"digest":"' + DIGEST.encode() + b'",'
        b'"name":"step-0000000007"}'
    )


def test_a_damaged_pointer_is_refused_naming_it(tmp_path):
    write_pointer(tmp_path, "step-2", DIGEST, 4)
    path = tmp_path / POINTER
    good = path.read_bytes()
    path.chmod(0o644)

    bad = [good[:size] for size in range(len(good))] + [good + b"\n"]
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        bad.append(bytes(flipped))
    bad += [b"[" * 4000, b"null", b"9" * 4096, b" " * 5000, random.randbytes(100)]

    for data in bad:
        path.write_bytes(data)
        with pytest.raises(SnapshotError, match=POINTER):
            read_pointer(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"name": "../x"}, {"name": 3}, {"digest": "x"}, {"counter": True}, {"counter": -1}],
)
def test_a_pointer_to_no_bundle_is_refused_even_with_the_right_check(tmp_path, change):
    fields = {"name": "a", "digest": DIGEST, "counter": 1} | change
    document = {**fields, "check": zlib.crc32(canonical.encode(fields))}
    (tmp_path / POINTER).write_bytes(canonical.encode(document))

    with pytest.raises(SnapshotError, match=POINTER):
        read_pointer(tmp_path)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_pointer_that_is_no_plain_file_is_refused(tmp_path, kind):
    path = tmp_path / POINTER
    if kind == "link":
        path.symlink_to(tmp_path / "x")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()

    with pytest.raises(SnapshotError, match=POINTER):
        read_pointer(tmp_path)
