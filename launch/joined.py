"""A command on several ranks: started by torchrun or Ray, they find each other before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharding.ranks import Ranks
    from trainer.settings import TrainSettings


@contextmanager
def joined(settings: TrainSettings) -> Iterator[Ranks]:
    """Gives the ranks that the environment names, the world of one where it names none."""
    from sharding.ranks import Ranks

    if Ranks.in_environment() == 1:
        yield Ranks.alone()
        return
    from trainer.model import choose_device

    ranks = Ranks.join(device_type=choose_device(settings.device).type)
    yield ranks
    # Only after good work: a group with a lost rank may wait for it.
    ranks.leave()
