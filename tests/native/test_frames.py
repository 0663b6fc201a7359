import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.frames import RawLookup, reserve
from native.hashing import hash_rows, salts


def test_what_is_written_through_the_view_is_in_the_bytes():
    frame, body = reserve(b"head", 3)
    body[:] = [1, 2, 3]

    assert frame == b"head\x01\x02\x03"
    assert reserve(b"head", 0)[0] == b"head"
    with pytest.raises(ValueError, match="size is -1"):
        reserve(b"", -1)


@given(
    num_lookups=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    n=st.integers(0, 40),
    row_bytes=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_one_call_gives_what_hashing_and_gathering_give(num_lookups, n, row_bytes, seed):
    rng = np.random.default_rng(seed)
    total = sum(num_lookups)
    table = rng.integers(0, 256, (97, row_bytes)).astype(np.uint8)
    keys = rng.integers(0, 2**64, (len(num_lookups), n), np.uint64)
    salt = salts("feature", total, seed)
    bases = rng.integers(0, 50, total)
    sizes = rng.integers(1, 47, total)
    feature = np.repeat(np.arange(len(num_lookups), dtype=np.int32), num_lookups)
    rows = np.empty((total, n), np.int64)
    hash_rows(keys, None, feature, salt, salt, bases, sizes, rows)
    parts = [table[rows[feature == f].T.reshape(-1)].tobytes() for f in range(len(num_lookups))]

    raw = RawLookup(np.array(num_lookups, np.int32), salt, bases, sizes)
    answer = raw.answer(b"h", [each.tobytes() for each in keys], table)

    assert answer == b"h" + b"".join(parts)


def test_ids_and_tables_that_do_not_fit_are_refused():
    one = np.ones(2, np.int64)
    raw = RawLookup(np.ones(2, np.int32), salts("a", 2, 0), one, one * 9)
    table = np.zeros((10, 4), np.uint8)

    assert raw.answer(b"", [b"", b""], table) == b""
    for ids in ([bytes(8)], [bytes(8), bytes(16)], [bytes(7), bytes(7)]):
        with pytest.raises(ValueError, match="ids"):
            raw.answer(b"", ids, table)
    with pytest.raises(IndexError, match="table has 9"):
        raw.answer(b"", [bytes(8), bytes(8)], table[:9])
    with pytest.raises(ValueError, match="salts"):
        RawLookup(np.ones(3, np.int32), salts("a", 2, 0), one, one)
