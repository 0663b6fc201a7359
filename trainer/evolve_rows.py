"""The rows of a table that carries on: copied region by region, with their optimizer's state.

Rows of regions that are new start as those of a new table: initial values by their row, and no
state.
"""

import numpy as np
from numpy.typing import NDArray

from features.routing import Layout
from native import memory
from native.order import derive
from sharding.table import TableEngine
from storage.chain import Checkpoint

_WEIGHT = "weight"


def fill_table(
    engine: TableEngine, checkpoint: Checkpoint, old: Layout, new: Layout, seed: int
) -> None:
    """Fills this rank's rows of an engine of the layout `new` from a checkpoint of `old`.

    A region is the one of the same name. Raises SnapshotError where the checkpoint is damaged, or
    was trained by another optimizer.
    """
    before = {region.name: region for region in old.regions}
    key, scale = derive("init", seed), engine.settings.init_scale

    def read(name: str, first: int, end: int, out: NDArray[np.float32]) -> None:
        for region in new.regions:
            low, high = max(first, region.base), min(end, region.base + region.rows)
            if low >= high:
                continue
            target = out[low - first : high - first]
            source = before.get(region.name)
            if source is not None:
                shift = source.base - region.base
                checkpoint.read_rows(f"table.{name}", low + shift, high + shift, target)
            elif name == _WEIGHT:
                rows = np.empty(target.shape, np.float32)
                memory.fill_uniform(rows, key, scale, first_row=low)
                target[:] = rows
            else:
                target[:] = 0

    engine.load_state(read, checkpoint.content["table"])
