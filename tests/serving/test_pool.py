import threading
import time
import weakref

from serving.pool import CallPool


def test_every_call_runs_and_every_callback_is_called_once():
    pool = CallPool(3, "test")
    ran, told = [], []
    lock = threading.Lock()

    def add(to, item):
        with lock:
            to.append(item)

    for number in range(5000):
        call = pool.submit(add, ran, number)
        if number % 3 == 0:
            time.sleep(0)  # the call may have ended by now
        call.add_done_callback(lambda _call, number=number: add(told, number))
    pool.shutdown()
    for _ in range(1000):
        if len(told) == 5000:
            break
        time.sleep(0.01)

    assert sorted(ran) == sorted(told) == list(range(5000))


def test_a_call_that_fails_leaves_its_thread_to_others(caplog):
    pool = CallPool(1, "test")
    done = threading.Event()

    pool.submit(lambda: 1 / 0)
    pool.submit(done.set)

    assert done.wait(10)
    assert "outside of its handler" in caplog.text
    pool.shutdown()


def test_threads_end_after_what_was_submitted():
    def alive():
        return sum(thread.name.startswith("ending") for thread in threading.enumerate())

    pool = CallPool(4, "ending")
    ran = []
    for number in range(100):
        pool.submit(ran.append, number)
    assert alive() == 4

    pool.shutdown()

    for _ in range(1000):
        if alive() == 0:
            break
        time.sleep(0.01)
    assert alive() == 0
    assert sorted(ran) == list(range(100))


def test_what_a_call_held_is_let_go_when_it_has_ended():
    class Held:
        pass

    pool = CallPool(1, "test")
    held = Held()
    seen = weakref.ref(held)
    done = threading.Event()

    call = pool.submit(lambda _held: None, held)
    call.add_done_callback(lambda _call: done.set())
    del held
    assert done.wait(10)

    assert seen() is None
    pool.shutdown()
