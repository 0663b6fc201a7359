import os
import time

import pytest
import torch

from features.errors import ConfigError
from sharding.ranks import LostRankError, Ranks
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


def test_a_process_without_a_place_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    with pytest.raises(ConfigError, match="is no rank"):
        Ranks.join()
