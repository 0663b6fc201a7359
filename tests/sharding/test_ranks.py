import os
import time

import pytest
import torch

from features.errors import ConfigError, DataError, FirstRankError, LostRankError
from sharding.ranks import Ranks
from tests.ranks import run_ranks


def _conversation(ranks):
    total = ranks.sum(torch.tensor([1.0 + ranks.rank]))
    sizes = [ranks.rank + 1] * ranks.world_size
    sent = torch.full((sum(sizes), 2), float(ranks.rank))
    out_sizes = [rank + 1 for rank in range(ranks.world_size)]
    received = ranks.exchange(torch.empty(sum(out_sizes), 2), sent, out_sizes, sizes)
    gathered = ranks.gather(b"x" * ranks.rank)
    shared = ranks.share(b"of the first" if ranks.is_first else None)
    other = ranks.beside().sum(torch.ones(1))
    return total.item(), received[:, 0].tolist(), gathered, shared, other.item()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_talk_to_each_other(world_size):
    results = run_ranks(world_size, _conversation)

    received = [float(rank) for rank in range(world_size) for _ in range(rank + 1)]
    for rank, (total, exchanged, gathered, shared, other) in enumerate(results):
        assert total == world_size * (world_size + 1) / 2
        assert exchanged == received
        assert gathered == ([b"x" * r for r in range(world_size)] if rank == 0 else [])
        assert shared == b"of the first"
        assert other == world_size


def test_alone_is_a_world_of_one():
    total, received, gathered, shared, other = _conversation(Ranks.alone())

    assert (total, received, gathered, shared, other) == (1.0, [0.0], [b""], b"of the first", 1.0)


def _die(ranks):
    if ranks.rank == 1:
        os._exit(9)
    began = time.monotonic()
    with pytest.raises(LostRankError):
        ranks.barrier()
    return time.monotonic() - began


def test_a_rank_that_dies_is_missed_at_once():
    with pytest.raises(AssertionError, match="rank 1 died"):
        run_ranks(2, _die)


def _slow(ranks):
    def work():
        time.sleep(2.5)
        return b"done"

    return ranks.by_first(work)


def test_the_others_wait_for_the_first():
    assert run_ranks(2, _slow) == [b"done", b"done"]


def _fail(ranks, failing):
    def work():
        if ranks.rank == failing:
            raise DataError(f"wrong on {ranks.rank}", "mend it")
        return ranks.rank

    outcomes = []
    for call in (lambda: ranks.together(work), lambda: ranks.by_first(lambda: bytes([work()]))):
        try:
            outcomes.append(call())
        except (DataError, FirstRankError) as exc:
            outcomes.append((type(exc).__name__.strip("_"), exc.what, exc.exit_code))
    return outcomes


def test_an_error_of_one_rank_ends_all():
    first, second = run_ranks(2, _fail, 0)
    assert first == [("DataError", "wrong on 0", 2)] * 2
    assert [each[::2] for each in second] == [("FirstRankError", 2)] * 2
    assert [each[1] for each in second] == ["rank 0: wrong on 0", "wrong on 0"]

    first, second = run_ranks(2, _fail, 1)
    assert first == [("DataError", "rank 1: wrong on 1", 2), b"\0"]
    assert second == [("FirstRankError", "rank 1: wrong on 1", 2), b"\0"]


def test_a_process_without_a_place_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    with pytest.raises(ConfigError, match="is no rank"):
        Ranks.join()
