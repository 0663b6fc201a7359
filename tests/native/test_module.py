import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from native import _native, hashing, kernels
from tests.native.arrays import NAMES, available

ROOT = Path(__file__).resolve().parents[2]


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_committed_stub_is_that_of_the_module(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "nanobind.stubgen",
            "-q",
            "-m",
            "native._native",
            "-o",
            tmp_path / "x.pyi",
        ],
        cwd=ROOT,
        check=True,
    )

    fresh = (tmp_path / "x.pyi").read_text()
    assert fresh == (ROOT / "native" / "_native.pyi").read_text(), "run `make stubgen`"


@pytest.mark.parametrize("name", NAMES)
def test_loops_of_an_instruction_set_share_no_function_with_other_objects(name):
    # The linker keeps one copy of a shared inline function for all callers: were it the AVX-512
    # one, an older processor would meet it.
    objects = list(ROOT.glob(f"build/cp*/CMakeFiles/_native.dir/src/isa_{name}.cpp.o"))
    if not objects:
        pytest.skip("the build folder of the installed module is not here")

    symbols = subprocess.run(["nm", "-C", *objects], capture_output=True, text=True, check=True)

    # A line is an address of 16 digits, the kind, the name.
    shared = [line for line in symbols.stdout.splitlines() if line[17:18] in "WwVvu"]
    assert not shared
    assert f"muxtable::{name}::loops" in symbols.stdout


@pytest.mark.parametrize("first", ["torch", "native.kernels"])
def test_one_openmp_runtime_is_loaded_beside_torch(first):
    lines = run(
        f"import {first}, torch, native.kernels, re\n"
        "maps = open('/proc/self/maps').read()\n"
        "print(*sorted(set(re.findall(r'/\\S*gomp\\S*', maps))), sep='\\n')\n"
    )

    assert len(lines) == 1, lines


def test_an_installation_puts_nothing_but_its_own_folders_on_the_path():
    (line,) = run("import sys\nprint('/' in sys.path)")

    assert line == "False"


def test_the_package_needs_no_torch():
    lines = run("import sys, native.kernels, native.limit\nprint('torch' in sys.modules)")

    assert lines == ["False"]


def test_the_best_instruction_set_is_chosen_at_start():
    lines = run("from native import kernels\nprint(kernels.instruction_set())")

    assert lines == [available()[-1]]
    assert kernels.instruction_set() == available()[-1]


def test_other_threads_run_while_a_kernel_does():
    # Enough work to take tenths of a second; the counting thread needs the interpreter all along.
    keys, counted, done = np.zeros(40_000_000, np.uint64), [], threading.Event()

    def count():
        while not done.is_set():
            counted.append(time.perf_counter())
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    begin = time.perf_counter()
    hashing.mix64(keys)
    end = time.perf_counter()
    done.set()
    counter.join()

    assert sum(begin < moment < end for moment in counted) >= 3


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong: _native.mix64(wrong(4)),
        lambda wrong: _native.hash_strings(wrong(4), np.zeros(4, np.uint8), 0),
        lambda wrong: _native.gather(
            np.zeros((2, 2), np.float32),
            wrong((1, 1)),
            np.zeros(1, np.int64),
            np.zeros((1, 2), np.float32),
            1,
        ),
        lambda wrong: _native.fill_uniform(wrong((2, 2)), 0, 1.0, 0, 1),
    ],
)
def test_the_module_itself_converts_no_array(call):
    with pytest.raises(TypeError):
        call(lambda shape: np.zeros(shape, np.int16))
    with pytest.raises(TypeError):
        call(lambda shape: np.zeros(shape, np.float64))
