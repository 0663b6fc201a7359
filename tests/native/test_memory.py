import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import memory, reference
from native.order import derive
from tests.native.arrays import available, instruction_set

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "init.json").read_text())


def mapping_of(array):
    """Returns the kernel's account of the mapping that holds the array's first byte."""
    start, fields, inside = array.ctypes.data, {}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(maxsplit=1)
        if "-" in head[0] and not head[0].endswith(":"):
            low, high = (int(part, 16) for part in head[0].split("-"))
            inside = low <= start < high
        elif inside:
            fields[head[0].rstrip(":")] = head[1]
    return fields


@pytest.mark.parametrize(
    ("width", "stride"),
    [
        (1, 1),
        (2, 2),
        (3, 4),
        (5, 8),
        (15, 16),
        (16, 16),
        (17, 32),
        (30, 32),
        (33, 48),
        (1024, 1024),
    ],
)
def test_rows_never_straddle_more_cache_lines_than_they_need(width, stride):
    table = memory.allocate(5, width)

    assert table.shape == (5, width)
    assert table.dtype == np.float32
    assert table.strides == (4 * stride, 4)
    assert table.ctypes.data % 64 == 0


def test_a_new_table_is_zero_and_writable():
    table = memory.allocate(1000, 30)

    assert not table.any()
    table[999, 29] = 1
    assert table[999, 29] == 1


def test_a_table_asks_for_huge_pages_and_starts_at_one():
    table = memory.allocate(1 << 20, 4)

    fields = mapping_of(table)

    assert table.ctypes.data % (2 << 20) == 0
    assert "hg" in fields["VmFlags"].split()


def test_a_table_takes_no_memory_before_it_is_written():
    table = memory.allocate(1 << 28, 16)

    assert int(mapping_of(table)["Rss"].split()[0]) < 4096
    assert table[-1, -1] == 0


def test_a_slice_keeps_the_memory_alive():
    table = memory.allocate(1 << 16, 16)
    table[5] = 7
    part = table[5][3:]
    del table

    memory.allocate(1 << 16, 16)[:] = 1

    assert (part == 7).all()


def test_the_memory_is_given_back_with_the_last_view():
    table = memory.allocate(1 << 22, 16)
    address = table.ctypes.data
    view = table[1:]
    del table
    assert f"{address:x}-" in Path("/proc/self/maps").read_text()

    del view

    assert f"{address:x}-" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("rows", "width"), [(0, 4), (1, 1)])
def test_the_smallest_tables_exist(rows, width):
    assert memory.allocate(rows, width).shape == (rows, width)


@pytest.mark.parametrize(("rows", "width"), [(-1, 4), (4, 0), (4, 1025)])
def test_sizes_no_table_has_are_refused(rows, width):
    with pytest.raises(ValueError, match="expected"):
        memory.allocate(rows, width)


@pytest.mark.parametrize("rows", [2**44, 2**62])
def test_a_table_beyond_the_address_space_is_a_memory_error(rows):
    with pytest.raises(MemoryError):
        memory.allocate(rows, 1024)


def test_vectors_are_zero_and_contiguous():
    vector = memory.allocate_vector(1000)

    assert vector.shape == (1000,)
    assert vector.flags.c_contiguous
    assert not vector.any()


@pytest.mark.parametrize("isa", available())
@settings(deadline=None)
@given(
    rows=st.integers(0, 9),
    width=st.integers(1, 40),
    key=st.integers(0, 2**64 - 1),
    scale=st.floats(0, 10, width=32),
    first_row=st.integers(0, 2**40),
)
def test_initial_values_are_those_of_plain_integers(isa, rows, width, key, scale, first_row):
    table, expected = memory.allocate(rows, width), np.zeros((rows, width), np.float32)

    with instruction_set(isa):
        memory.fill_uniform(table, key, scale, first_row, threads=2)

    reference.fill_uniform(expected, key, scale, first_row)
    assert np.array_equal(table, expected)


def test_parts_of_a_table_get_the_values_of_the_whole():
    whole, parts = memory.allocate(1000, 15), memory.allocate(1000, 15)

    memory.fill_uniform(whole, 9, 0.05, threads=3)
    memory.fill_uniform(parts[:333], 9, 0.05)
    memory.fill_uniform(parts[333:], 9, 0.05, first_row=333, threads=2)

    assert np.array_equal(whole, parts)


def test_initial_values_fill_the_interval_and_leave_the_padding_alone():
    table = memory.allocate(20_000, 15)

    memory.fill_uniform(table, 1, 0.5)

    assert -0.5 <= table.min() < -0.4999
    assert 0.4999 < table.max() < 0.5
    assert abs(table.mean()) < 0.005
    padded = np.lib.stride_tricks.as_strided(table, (20_000, 16), table.strides)
    assert not padded[:, 15].any()


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed {case['seed']}")
def test_initial_values_are_fixed(case):
    table = memory.allocate(1, case["width"])

    for row, values in case["rows"].items():
        memory.fill_uniform(table, derive("init", int(case["seed"])), case["scale"], int(row))
        assert table[0].tolist() == [float.fromhex(value) for value in values]


def test_values_of_another_type_or_shape_are_refused():
    with pytest.raises(TypeError, match="table holds float64"):
        memory.fill_uniform(np.zeros((2, 2)), 0, 1)
    with pytest.raises(ValueError, match="table has 1 axes"):
        memory.fill_uniform(np.zeros(2, np.float32), 0, 1)
    with pytest.raises(ValueError, match="table has gaps"):
        memory.fill_uniform(np.zeros((2, 4), np.float32)[:, ::2], 0, 1)
    with pytest.raises(ValueError, match="threads is 0"):
        memory.fill_uniform(np.zeros((2, 2), np.float32), 0, 1, threads=0)


FAULTS_OF_A_SECOND_TEMPORARY = """
import resource
import numpy as np
from native import memory

if {tuned}:
    assert memory.tune_allocator()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_tuned_allocator_keeps_the_memory_of_large_temporaries():
    if "libasan" in Path("/proc/self/maps").read_text():
        pytest.skip("the address sanitizer brings an allocator of its own")

    def faults(tuned):
        code = FAULTS_OF_A_SECOND_TEMPORARY.format(tuned=tuned)
        return int(subprocess.check_output([sys.executable, "-c", code], text=True))

    assert faults(tuned=False) > 20
    assert faults(tuned=True) < 10


PAGES_OF_A_TEMPORARY = """
import ctypes
from pathlib import Path
from native import memory

assert memory.tune_allocator()
temporary = bytearray(32 << 20)
# Its middle: its start may share a page with what came before.
address = ctypes.addressof(ctypes.c_char.from_buffer(temporary)) + (16 << 20)
inside = False
for line in Path("/proc/self/smaps").read_text().splitlines():
    head = line.split()[0]
    if not head.endswith(":"):
        low, high = (int(part, 16) for part in head.split("-"))
        inside = low <= address < high
    elif inside and head == "VmFlags:":
        print("hg" in line.split())
"""


def test_a_tuned_allocator_wants_huge_pages_for_temporaries():
    if "libasan" in Path("/proc/self/maps").read_text():
        pytest.skip("the address sanitizer brings an allocator of its own")

    printed = subprocess.check_output([sys.executable, "-c", PAGES_OF_A_TEMPORARY], text=True)

    assert printed.split() == ["True"]
