"""How the ranks of one attempt find each other in a store that earlier attempts have written to.

torchrun keeps its store when it starts the ranks again, so what dead ranks left there (the
addresses they listened at) would be taken for that of living ones. Here each process draws a word
of its own, and what they use together is under a name made of the words of all:

    rank r     hello/r = its word                      as long as nothing is settled
    rank 0     go      = the words of all ranks        again whenever one of them changes
    rank r     ack/r   = what go says, if its own word is in it
    rank 0     done    = what go says, once all have acknowledged it

Words of dead ranks are never acknowledged, so rank 0 waits until the living one has said its own.
"""

import hashlib
import json
import secrets
import time

from torch.distributed.distributed_c10d import PrefixStore, Store

from features.errors import LostRankError

_POLL_S = 0.01


def meet(store: Store, rank: int, world_size: int, timeout_s: float) -> Store:
    """Returns the part of a store that the ranks of this attempt have to themselves.

    Raises LostRankError where they do not all come within the timeout.
    """
    place = PrefixStore("muxtable", store)
    word = secrets.token_hex(8)
    settled = _lead if rank == 0 else _follow
    deadline = time.monotonic() + timeout_s
    agreed = None
    while agreed is None:
        agreed = settled(place, rank, world_size, word)
        if time.monotonic() > deadline:
            raise LostRankError(
                f"not all of the {world_size} ranks came within {timeout_s:.0f} s (this is rank "
                f"{rank})",
                "look at what the others say, and whether they reach this machine",
            )
        time.sleep(_POLL_S)
    return PrefixStore(hashlib.sha256(agreed.encode()).hexdigest()[:16], store)


def _lead(place: Store, _rank: int, world_size: int, word: str) -> str | None:
    """One look of rank 0: returns the words of all once all have acknowledged them."""
    words = [word, *(_read(place, f"hello/{rank}") for rank in range(1, world_size))]
    if not all(words):
        return None
    proposal = json.dumps(words)
    if _read(place, "go") != proposal:
        place.set("go", proposal)
    if any(_read(place, f"ack/{rank}") != proposal for rank in range(1, world_size)):
        return None
    place.set("done", proposal)
    return proposal


def _follow(place: Store, rank: int, world_size: int, word: str) -> str | None:
    """One look of another rank."""
    if _read(place, f"hello/{rank}") != word:
        place.set(f"hello/{rank}", word)
    proposal = _read(place, "go")
    words = json.loads(proposal) if proposal else []
    if len(words) != world_size or words[rank] != word:
        return None
    if _read(place, f"ack/{rank}") != proposal:
        place.set(f"ack/{rank}", proposal)
    return proposal if _read(place, "done") == proposal else None


def _read(place: Store, key: str) -> str:
    return place.get(key).decode() if place.check([key]) else ""
