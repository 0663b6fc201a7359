import errno

import pytest

from features.errors import DataError, TrainingError
from launch.failures import describe


def test_our_errors_speak_for_themselves():
    failure = describe(DataError("a.parquet: column x is a float", "list it as dense"))

    assert (failure.what, failure.fix) == ("a.parquet: column x is a float", "list it as dense")
    assert failure.exit_code == 2


def test_a_run_that_failed_on_the_way_exits_with_1():
    assert describe(TrainingError("step 7: the loss is nan", "lower it")).exit_code == 1


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (errno.ENOSPC, 1, "space"),
        (errno.EACCES, 2, "permissions"),
        (errno.EROFS, 2, "read-only"),
        (errno.ENOENT, 2, "path"),
    ],
)
def test_errors_of_the_system_name_the_file_and_a_way_out(number, code, word):
    failure = describe(OSError(number, "whatever", "/data/x"))

    assert failure.what.startswith("/data/x: ")
    assert word in failure.fix
    assert failure.exit_code == code


def test_a_missing_native_module_says_how_to_build_it():
    failure = describe(ModuleNotFoundError("No module named", name="native._native"))

    assert "make native" in failure.fix


def test_a_missing_torch_says_what_to_install():
    failure = describe(ModuleNotFoundError("No module named 'torch'", name="torch"))

    assert "torch" in failure.what
    assert "muxtable[train]" in failure.fix


def test_anything_else_is_called_a_bug():
    failure = describe(ValueError("first line\nsecond line"))

    assert failure.what == "unexpected ValueError: first line"
    assert failure.exit_code == 1
    assert "--debug" in failure.fix
