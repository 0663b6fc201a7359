import mmap
import multiprocessing
import threading
import time

import numpy as np
import pytest

from native.barrier import Barrier


def shared_words():
    """Returns two uint32 in memory that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, 4096), np.uint32, 2)


def take_turns(words, rounds, num_processes, spins):
    """Adds one a round where the other process sees it only after the meeting."""
    barrier = Barrier(words[:1], num_processes, spins)
    for step in range(rounds):
        barrier.arrive()
        assert barrier.wait(30)
        # Between two meetings nobody writes.
        assert words[1] == step
        barrier.arrive()
        assert barrier.wait(30)
        if multiprocessing.parent_process() is None:
            words[1] += 1


@pytest.mark.parametrize("spins", [0, 2000])
def test_processes_go_on_together(spins):
    words, context = shared_words(), multiprocessing.get_context("fork")
    others = [context.Process(target=take_turns, args=(words, 200, 3, spins)) for _ in range(2)]
    for other in others:
        other.start()

    take_turns(words, 200, 3, spins)

    for other in others:
        other.join(30)
    assert [other.exitcode for other in others] == [0, 0]
    assert words[1] == 200


def test_waiting_ends_with_its_time_and_may_go_on():
    words = shared_words()
    barrier, other = Barrier(words[:1], 2, 10), Barrier(words[:1], 2, 10)
    barrier.arrive()
    began = time.monotonic()

    assert not barrier.wait(0.05)

    assert 0.04 < time.monotonic() - began < 5
    threading.Timer(0.05, other.arrive).start()
    assert barrier.wait(30)
    assert other.wait(0)


def test_counts_may_wrap():
    words = shared_words()
    words[0] = 2**32 - 1
    barrier, other = Barrier(words[:1], 2, 10), Barrier(words[:1], 2, 10)
    # As if both had met that often before: one more arrival was counted.
    barrier._target = other._target = 2**32 - 2

    barrier.arrive()

    assert barrier.wait(0)
    assert int(words[0]) == 0


def test_anything_but_one_word_is_refused():
    with pytest.raises(ValueError, match="arrivals has length 2"):
        Barrier(shared_words(), 2, 0).arrive()
    with pytest.raises(TypeError, match="uint32"):
        Barrier(np.zeros(1, np.int64), 2, 0)
