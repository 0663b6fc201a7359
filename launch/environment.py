"""The process environment of the command line, set before anything loads OpenMP."""

import os

# libgomp reads these once, when it is loaded. Idle threads that spin would fight the threads that
# read and decode data for the same cores.
_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    # Errors of native code that Python translates need no C++ stack trace above our message.
    "TORCH_SHOW_CPP_STACKTRACES": "0",
}


def prepare_environment() -> None:
    """Sets what is not set yet; does nothing useful once numpy or torch are imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def is_first_rank() -> bool:
    """Whether this process is rank 0, or alone."""
    return os.environ.get("RANK", "0") == "0"
