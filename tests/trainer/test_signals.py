import signal
import subprocess
import sys
import threading

import pytest

from trainer.signals import StopSignals

# Prints "ready", then what the handler knows, each time it is woken.
SCRIPT = """
import sys, time
from trainer.signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while stop() is None:
        time.sleep(0.01)
    print(stop(), flush=True)
    if "hang" in sys.argv:
        time.sleep(30)
sys.exit(128 + stop())
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_the_first_signal_only_asks(number, code) -> None:
    process = start()

    process.send_signal(number)
    output, _ = process.communicate(timeout=20)

    assert output == f"{int(number)}\n"
    assert process.returncode == code


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_at_once(second) -> None:
    process = start("hang")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "15\n"

    process.send_signal(second)
    process.communicate(timeout=10)

    assert process.returncode == -second


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    with StopSignals() as stop:
        during = signal.getsignal(signal.SIGTERM)

    assert during == stop._receive
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with StopSignals() as stop:
            seen.extend([signal.getsignal(signal.SIGTERM), stop()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [before, None]
