import secrets
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore

from features.errors import LostRankError
from sharding.rendezvous import meet


def meet_all(store, world_size, delays=(), timeout_s=20):
    found = {}

    def run(rank):
        time.sleep(delays[rank] if delays else 0)
        place = meet(store, rank, world_size, timeout_s)
        place.set(f"address/{rank}", f"mine {rank}")
        found[rank] = place

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def store():
    made = HashStore()
    made.set_timeout(timedelta(seconds=5))
    return made


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_find_each_other(store, world_size):
    found = meet_all(store, world_size)

    for place in found.values():
        values = [place.get(f"address/{rank}").decode() for rank in range(world_size)]
        assert values == [f"mine {rank}" for rank in range(world_size)]


@pytest.mark.parametrize("delays", [(0, 0.3, 0.6), (0.6, 0, 0.3)])
def test_what_an_earlier_attempt_left_is_not_taken_for_this_one(store, delays):
    earlier = meet_all(store, 3)
    # One more attempt, whose ranks died on the way: two had said hello, one had acknowledged.
    place = PrefixStore("muxtable", store)
    for rank in (1, 2):
        place.set(f"hello/{rank}", secrets.token_hex(8))
    place.set("ack/1", place.get("go"))

    later = meet_all(store, 3, delays)

    assert all(later[0].get(f"address/{rank}") for rank in range(3))
    later[0].set("probe", "new")
    assert later[2].get("probe") == b"new"
    assert not earlier[0].check(["probe"])


def test_a_rank_that_does_not_come_is_missed(store):
    with pytest.raises(LostRankError, match="not all of the 2 ranks came within 0 s"):
        meet(store, 1, 2, timeout_s=0.3)
    with pytest.raises(LostRankError, match="not all of the 2 ranks came"):
        meet(store, 0, 2, timeout_s=0.3)
