import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native import codec_reference, codecs
from tests.native.arrays import available, instruction_set, spread

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("float32", "float16", "bfloat16", "int8", "int4", "int2", "float8", "binary")
WIDTHS = (1, 2, 3, 7, 8, 10, 15, 16, 17, 30, 32, 33, 64, 100, 128, 130)


def rows_of(num_rows, width, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(num_rows, width)) * scale).astype(np.float32)
    # What trips a codec: all alike, zeros of both signs, one large among small ones.
    special = min(num_rows, 5)
    rows[:special] = np.array([0, -0.0, 1, -3, 1e-40], np.float32)[:special, None]
    if num_rows > 6:
        rows[5] *= 0
        rows[5, 0] = 60_000
        rows[6, ::2] = -0.0
    return rows


def coded(kind, rows, planes=3):
    return np.empty((len(rows), codecs.row_bytes(kind, rows.shape[1], planes)), np.uint8)


def encoded(kind, rows, planes=3):
    out = coded(kind, rows, planes)
    codecs.encode(kind, rows, out)
    return out


def codebook_of(parts, part_width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(parts, 256, part_width)).astype(np.float32)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", KINDS)
def test_encode_and_decode_give_the_bits_of_the_reference(kind, name):
    for width in WIDTHS:
        rows = rows_of(300, width, width)
        expected, values = coded(kind, rows), np.empty_like(rows)
        codec_reference.encode(kind, rows, expected)
        codec_reference.decode(kind, expected, values)

        with instruction_set(name):
            raw, decoded = encoded(kind, rows), np.empty_like(rows)
            codecs.decode(kind, raw, decoded)

        assert np.array_equal(raw, expected), width
        assert np.array_equal(decoded.view(np.uint32), values.view(np.uint32)), width


@pytest.mark.parametrize("name", available())
def test_every_code_of_float16_and_float8_decodes_as_its_reference_does(name):
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.uint8).reshape(-1, 32)
    eights = np.zeros((16, 20), np.uint8)
    eights[:, :16] = np.arange(256).reshape(16, 16)
    eights[:, 16:] = np.frombuffer(np.float32(1).tobytes(), np.uint8)

    with instruction_set(name):
        for kind, raw in (("float16", halves), ("float8", eights), ("bfloat16", halves)):
            got, expected = np.empty((len(raw), 16), np.float32), np.empty((len(raw), 16), "f4")
            codecs.decode(kind, raw, got)
            codec_reference.decode(kind, raw, expected)

            same = got.view(np.uint32) == expected.view(np.uint32)
            assert (same | (np.isnan(got) & np.isnan(expected))).all(), kind


@pytest.mark.parametrize("name", available())
def test_every_float_near_a_boundary_of_float16_and_float8_rounds_as_the_reference_does(name):
    # Around every code: the halfway points and their neighbours on both sides.
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = ((halves[1:] + halves[:-1]) / 2).astype(np.float32)
    near = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, np.inf)])
    rows = np.concatenate([near, -near]).astype(np.float32)
    rows = rows[: len(rows) // 16 * 16].reshape(-1, 16)
    eight = np.clip(rows, -448, 448)
    eight[:, 0] = 448  # the scale is one

    with instruction_set(name):
        for kind, values in (("float16", rows), ("float8", eight), ("bfloat16", rows)):
            expected = coded(kind, values)
            codec_reference.encode(kind, values, expected)

            assert np.array_equal(encoded(kind, values), expected), kind


@given(st.data())
def test_any_bits_of_finite_rows_code_alike(data):
    width = data.draw(st.integers(1, 40))
    kind = data.draw(st.sampled_from(KINDS))
    limit = 65504.0 if kind in ("float16", "int4", "int2", "binary") else 2.0**100
    value = st.floats(-limit, limit, width=32)
    rows = data.draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=1))
    rows = np.array(rows, np.float32)
    expected, values = coded(kind, rows), np.empty_like(rows)
    codec_reference.encode(kind, rows, expected)
    codec_reference.decode(kind, expected, values)

    raw, decoded = encoded(kind, rows), np.empty_like(rows)
    codecs.decode(kind, raw, decoded)

    assert np.array_equal(raw, expected)
    assert np.array_equal(decoded.view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize(("parts", "width"), [(1, 7), (5, 10), (8, 32), (4, 32), (2, 32), (16, 16)])
def test_product_codes_are_the_nearest_entries(parts, width, name):
    codebook = codebook_of(parts, width // parts)
    codebook[:, 200] = codebook[:, 3]  # equals: the first counts
    rows = rows_of(300, width, scale=0.5)
    rows[20:40] = codebook[:, 200].reshape(1, width)
    expected, values = np.empty((300, parts), np.uint8), np.empty_like(rows)
    codec_reference.encode_pq(codebook, rows, expected)
    codec_reference.decode("pq", expected, values, codebook)

    raw, decoded = np.empty((300, parts), np.uint8), np.empty_like(rows)
    with instruction_set(name):
        codecs.encode_pq(codebook, rows, raw)
        codecs.decode("pq", raw, decoded, codebook=codebook)

    assert np.array_equal(raw, expected)
    assert (raw[20:40] == 3).all()
    assert np.array_equal(decoded, values)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize(("terms", "width"), [(1, 1), (5, 10), (16, 32), (32, 32), (40, 17)])
def test_affine_adds_in_the_order_of_the_terms(terms, width, name):
    rows, weights = rows_of(50, terms, scale=0.1), rows_of(terms, width, 1)
    offset = rows_of(9, width, 2)[8]
    expected = np.empty((50, width), np.float32)
    codec_reference.affine(rows, weights, offset, expected)

    out = np.empty_like(expected)
    with instruction_set(name):
        codecs.affine(spread(rows), weights, offset, out)

    assert np.array_equal(out.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", KINDS)
def test_gathered_rows_are_those_of_the_table_decoded(kind, name):
    for width in (1, 10, 16, 32, 100):
        table = encoded(kind, rows_of(500, width))
        rows = np.random.default_rng(1).integers(0, 500, 3000)
        rows[-5:] = 499
        expected = np.empty((3000, width), np.float32)
        codec_reference.gather_decode(kind, table, rows, expected)

        # Out is some columns of a wider matrix, as a feature's lookups are.
        wide = np.full((3000, 2 * width + 1), 7, np.float32)
        with instruction_set(name):
            codecs.gather_decode(kind, table, rows, wide[:, width : 2 * width])

        assert np.array_equal(wide[:, width : 2 * width], expected)
        assert (wide[:, :width] == 7).all()
        assert (wide[:, -1] == 7).all()


@pytest.mark.parametrize("row_bytes", [1, 4, 7, 8, 9, 15, 16, 17, 20, 31, 40, 64, 129])
def test_raw_rows_are_gathered_byte_for_byte(row_bytes):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (300, row_bytes)).astype(np.uint8)
    rows = rng.integers(0, 300, 10_000)
    out = np.full((10_000, row_bytes + 5), 9, np.uint8)

    codecs.gather_raw(table, rows, out[:, :row_bytes], threads=2)

    assert np.array_equal(out[:, :row_bytes], table[rows])
    assert (out[:, row_bytes:] == 9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_gaps_between_rows_change_nothing(kind):
    rows = rows_of(9000, 30)
    once = encoded(kind, rows)
    decoded = np.empty_like(rows)
    codecs.decode(kind, once, decoded)
    order = np.random.default_rng(0).permutation(9000)

    raw = np.full((9000, once.shape[1] + 3), 9, np.uint8)
    codecs.encode(kind, spread(rows), raw[:, :-3], threads=3)
    values, gathered = np.empty_like(rows), np.empty_like(rows)
    codecs.decode(kind, raw[:, :-3], values, threads=3)
    codecs.gather_decode(kind, raw[:, :-3], order, gathered, threads=3)

    assert np.array_equal(raw[:, :-3], once)
    assert (raw[:, -3:] == 9).all()
    assert np.array_equal(values, decoded)
    assert np.array_equal(gathered, decoded[order])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 10, 32])
def test_the_first_row_that_is_not_finite_or_too_large_is_found(width, threads):
    rows = np.clip(rows_of(9000, width), -3, 3)
    assert codecs.first_unfit(rows, 3.0, threads) == -1

    for place, value in ((8999, np.nan), (5000, -np.inf), (4000, np.nextafter(np.float32(3), 4))):
        rows[place, -1] = value

        assert codecs.first_unfit(rows, 3.0, threads) == place
        assert codecs.first_unfit(spread(rows), 3.0, threads) == place
        assert codec_reference.first_unfit(rows, 3.0) == place


def test_a_row_outside_the_table_is_named_and_nothing_is_written():
    table, out = encoded("int8", rows_of(10, 8)), np.full((3, 8), 7, np.float32)
    raw = np.full((3, 16), 7, np.uint8)

    for bad in (10, -1, 2**62):
        rows = np.array([0, bad, 1])
        with pytest.raises(IndexError, match=rf"rows\[1\] is {bad}, the table has 10 rows"):
            codecs.gather_decode("int8", table, rows, out)
        with pytest.raises(IndexError, match=rf"rows\[1\] is {bad}"):
            codecs.gather_raw(table, rows, raw)

    assert (out == 7).all()
    assert (raw == 7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_number_of_bytes_are_refused(kind):
    rows = rows_of(4, 16)
    table = encoded(kind, rows)

    for raw in (table[:, :-1], np.pad(table, ((0, 0), (0, 1)))):
        with pytest.raises(ValueError, match="bytes, which is no row of width 16"):
            codecs.decode(kind, raw, np.empty_like(rows))
        with pytest.raises(ValueError, match="bytes, which is no row of width 16"):
            codecs.encode(kind, rows, raw.copy())


def test_arrays_that_do_not_fit_are_refused_by_name():
    codebook, raw = codebook_of(4, 2), np.zeros((3, 4), np.uint8)

    with pytest.raises(ValueError, match="codebook is not that of rows of width 9"):
        codecs.decode("pq", raw, np.empty((3, 9), np.float32), codebook=codebook)
    with pytest.raises(ValueError, match="a codebook goes with pq"):
        codecs.decode("pq", raw, np.empty((3, 8), np.float32))
    with pytest.raises(ValueError, match="a codebook goes with pq"):
        codecs.decode("int8", raw, np.empty((3, 8), np.float32), codebook=codebook)
    with pytest.raises(ValueError, match="out has length 2, expected 3"):
        codecs.decode("pq", raw, np.empty((2, 8), np.float32), codebook=codebook)
    with pytest.raises(TypeError, match="rows holds float64"):
        codecs.encode("int8", np.zeros((3, 8)), np.empty((3, 16), np.uint8))
    frozen = np.empty((3, 8), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        codecs.decode("pq", raw, frozen, codebook=codebook)
    with pytest.raises(ValueError, match="width 1025"):
        codecs.encode("int8", np.zeros((1, 1025), np.float32), np.empty((1, 1033), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_no_work(kind):
    rows = np.empty((0, 10), np.float32)
    table = encoded(kind, rows)

    codecs.decode(kind, table, rows)
    codecs.gather_decode(kind, table, np.empty(0, np.int64), rows)
    codecs.gather_raw(table, np.empty(0, np.int64), table)

    assert codecs.first_unfit(rows, 1.0) == -1


def test_the_widest_rows_are_coded():
    rows = rows_of(20, 1024)

    for kind in KINDS:
        raw = encoded(kind, rows, planes=8)
        expected, out = np.empty_like(rows), np.empty_like(rows)
        codec_reference.decode(kind, raw, expected)
        codecs.gather_decode(kind, raw, np.arange(20), out)

        assert np.array_equal(out, expected), kind


def test_a_call_lets_other_threads_run():
    table = np.zeros((1000, 40), np.uint8)
    rows = np.random.default_rng(0).integers(0, 1000, 3_000_000)
    out, turns, done = np.empty((len(rows), 32), np.float32), [], threading.Event()

    def count():
        while not done.is_set():
            turns.append(0)
            done.wait(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    before = len(turns)
    codecs.gather_decode("int8", table, rows, out)
    during = len(turns) - before
    done.set()
    counter.join()

    assert during >= 3


GUARDED = """
import ctypes, mmap
import numpy as np
from native import codecs
from tests.native.arrays import available
from tests.native.test_codecs import KINDS
from native import kernels

page = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(start + 2 * page), page, 0) == 0
whole = np.frombuffer(memory, np.uint8, 2 * page)
codebook = np.zeros((5, 256, 3), np.float32)
for name in available():
    kernels.choose(name)
    for kind in (*KINDS, "pq"):
        for width in (1, 15, 17, 33) if kind != "pq" else (15,):
            size = codecs.row_bytes(kind, width, 5 if kind == "pq" else 3)
            for num_rows in (1, 7):
                # Ends where the memory that may be read ends.
                table = whole[len(whole) - num_rows * size :].reshape(num_rows, size)
                rows = np.arange(num_rows)
                book = codebook if kind == "pq" else None
                out = np.empty((num_rows, width), np.float32)
                codecs.gather_decode(kind, table, rows, out, codebook=book)
                codecs.decode(kind, table, out, codebook=book)
                codecs.gather_raw(table, rows, np.empty_like(table))
print("unharmed")
"""


def test_nothing_behind_a_table_is_read():
    done = subprocess.run(
        [sys.executable, "-c", GUARDED], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stdout == "unharmed\n", (done.returncode, done.stderr)
