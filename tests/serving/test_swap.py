import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from features.batches import KeyColumn
from serving.client import Client
from storage.snapshot import open_snapshot
from tests.serving.history import Answer, History, Load, Promotion
from tests.serving.running import quiet, running, start
from tests.serving.small import write_version

FIRST, SECOND = "v-0000000001", "v-0000000002"
USERS = 5000


def two_versions(directory, codec="int8"):
    """Two versions, and the vectors of the same users in each."""
    expected = {}
    for step in (1, 2):
        name = write_version(directory, step, codec)
        with open_snapshot(directory / name) as snapshot:
            keys = KeyColumn(np.arange(USERS, dtype=np.uint64))
            expected[name] = snapshot.lookup("user", keys)
    return expected


def promote_back_and_forth(client, times, history):
    """Promotions and rollbacks by turns, written down."""
    for turn in range(times):
        began = time.monotonic()
        if turn % 2 == 0:
            client.load(SECOND)
            stamp = client.promote(SECOND)
        else:
            stamp = client.rollback()
        history.promotions.append(
            Promotion(began, time.monotonic(), stamp.version, int(stamp.counter))
        )


def swap_under_load(directory, times, num_clients, processes):
    expected = two_versions(directory)
    history = History()
    arguments = quiet(directory, "--policy", "pinned", "--pin", FIRST, "--processes", processes)
    with running(*arguments) as service:
        history.promotions.append(Promotion(0, time.monotonic(), FIRST, 1))
        load = Load(lambda: service.address, expected, num_clients, history)
        with Client(service.address, timeout_s=30) as operator:
            promote_back_and_forth(operator, times, history)
        load.stop()
        code = service.terminate()
    return history, code


@pytest.mark.parametrize("processes", [1, 2])
def test_promotions_under_load_fail_no_call_and_mix_no_versions(tmp_path, processes):
    history, code = swap_under_load(tmp_path, 30, 4, processes)

    assert code == 0
    assert history.failures == []
    assert history.violations() == []
    assert {answer.version for answer in history.answers} == {FIRST, SECOND}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_thousand_promotions_under_sixteen_clients(tmp_path, processes):
    history, code = swap_under_load(tmp_path, 1000, 16, processes)

    assert code == 0
    assert history.failures == []
    assert history.violations() == []
    assert len(history.answers) > 1000


def test_the_checker_finds_what_it_is_for():
    history = History(promotions=[Promotion(0, 1, FIRST, 1), Promotion(5, 6, SECOND, 2)])
    history.answers = [Answer(0, 2, 3, FIRST, 1, True), Answer(0, 5.5, 7, SECOND, 2, True)]
    assert history.violations() == []

    for wrong in (
        Answer(0, 2, 3, FIRST, 1, False),
        Answer(0, 2, 3, SECOND, 1, True),
        Answer(0, 2, 3, SECOND, 2, True),
        Answer(0, 7, 8, FIRST, 1, True),
    ):
        assert History([*history.answers, wrong], [], history.promotions).violations()


def kill_under_load(directory, times, seed):
    """Promotes, kills the service at a random moment, starts it again: `times` times."""
    expected = two_versions(directory)
    rng = np.random.default_rng(seed)
    history = History()
    port = None
    waits = []
    current, counter = FIRST, 1
    arguments = quiet(directory, "--policy", "pinned", "--pin", FIRST)
    for _ in range(times):
        began = time.monotonic()
        service = start(*arguments, *(() if port is None else ("--port", port)))
        waits.append(time.monotonic() - began)
        port = service.address.split(":")[1]
        # What was acknowledged before the kill is in force, or what was being done then.
        assert service.document["version"] in (current, *expected)
        assert service.document["promotion"] >= counter
        load = Load(lambda at=service.address: at, expected, 2, history, timeout_s=0.3, sizes=(64,))
        with Client(service.address, timeout_s=5) as operator:
            deadline = time.monotonic() + rng.uniform(0.05, 0.6)
            while time.monotonic() < deadline:
                target = SECOND if current == FIRST else FIRST
                operator.load(target)
                stamp = operator.promote(target)
                current, counter = stamp.version, int(stamp.counter)
        service.kill()
        load.stop()
    return history, waits, current, counter


def check_kills(directory, times):
    seed = int(os.environ.get("MUXTABLE_SEED", "0")) or time.time_ns() % 2**32
    history, waits, current, counter = kill_under_load(directory, times, seed)

    assert [answer for answer in history.answers if not answer.is_right] == [], f"seed {seed}"
    with running(*quiet(directory, "--policy", "pinned", "--pin", FIRST)) as service:
        assert (service.document["version"], service.document["promotion"]) == (current, counter)
    assert max(waits) < 15


def test_kill_9_loses_no_acknowledged_promotion(tmp_path):
    check_kills(tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_many_moments(tmp_path):
    check_kills(tmp_path, int(os.environ.get("MUXTABLE_KILLS", "30")))


def check_two_services(directory, times):
    """Kills one of two services at a time: a name of both is asked, and no call fails."""
    seed = int(os.environ.get("MUXTABLE_SEED", "0")) or time.time_ns() % 2**32
    rng = np.random.default_rng(seed)
    places = [directory / "a", directory / "b"]
    for place in places:
        place.mkdir()
        expected = two_versions(place)
    history = History()
    arguments = [quiet(place, "--policy", "pinned", "--pin", FIRST) for place in places]
    services = [start(*each) for each in arguments]
    both = f"ipv4:{services[0].address},{services[1].address}"
    load = Load(lambda: both, expected, 4, history, sizes=(1, 64, 1024))
    try:
        for _ in range(times):
            time.sleep(rng.uniform(0.1, 0.5))
            number = int(rng.integers(2))
            port = services[number].address.split(":")[1]
            services[number].kill()
            services[number] = start(*arguments[number], "--port", port)
    finally:
        load.stop()
        codes = [service.terminate() for service in services]

    assert codes == [0, 0]
    assert len(history.answers) > 100 * times
    assert history.failures == [], f"seed {seed}"
    assert [answer for answer in history.answers if not answer.is_right] == [], f"seed {seed}"


def test_of_two_services_one_may_be_killed(tmp_path):
    check_two_services(tmp_path, 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_two_services_one_may_be_killed_many_times(tmp_path):
    check_two_services(tmp_path, int(os.environ.get("MUXTABLE_KILLS", "30")))


def test_a_killed_process_of_several_is_replaced(tmp_path):
    expected = two_versions(tmp_path)
    history = History()
    with running(
        *quiet(tmp_path, "--policy", "pinned", "--pin", FIRST, "--processes", 2)
    ) as service:
        load = Load(lambda: service.address, expected, 4, history, sizes=(64,))
        children = children_of(service.child.pid)
        assert len(children) == 2
        with Client(service.address, timeout_s=20) as operator:
            operator.load(SECOND)
            operator.promote(SECOND)
            os.kill(children[0], signal.SIGKILL)
            began = time.monotonic()
            while len(children_of(service.child.pid)) < 2 or children[0] in children_of(
                service.child.pid
            ):
                assert time.monotonic() - began < 10
                time.sleep(0.05)
            operator.rollback()
            time.sleep(0.5)
            operator.load(SECOND)
            stamp = operator.promote(SECOND)
        time.sleep(1)
        load.stop()
        assert service.terminate() == 0

    assert history.failures == []
    assert [answer for answer in history.answers if not answer.is_right] == []
    assert history.answers[-1].counter == stamp.counter


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]
