"""The table as a model declares it, before TorchRec shards it."""

import torch
import torchrec
from torch import Tensor, nn

from features.batches import RowBatch
from features.errors import ConfigError
from features.settings import TableSettings

# What TorchRec's planner asks of a parameter to count the optimizer's state.
_OPTIMIZERS = {
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "adagrad": torchrec.optim.Adagrad,
    "adam": torchrec.optim.Adam,
    "sgd": torchrec.optim.SGD,
}


class UnifiedTable(nn.Module):
    """A table as a model declares it; it takes no memory until it is sharded.

    Rows int64[...] in, vectors float32[..., width] out; or a `RowBatch` in, with its lists, and
    float32[B, W] out.
    """

    def __init__(self, rows: int, width: int, settings: TableSettings, seed: int = 0) -> None:
        super().__init__()
        self.rows = rows
        self.width = width
        self.settings = settings
        self.seed = seed
        self.weight = nn.Parameter(torch.empty(rows, width, device="meta"))
        self.weight._optimizer_classes = [_OPTIMIZERS[settings.optimizer]]  # type: ignore[attr-defined]

    def forward(self, rows: Tensor | RowBatch) -> Tensor:
        """Raises ConfigError: only the sharded table has rows."""
        raise _not_sharded(f"{rows.__class__.__name__} looked up")

    def reset_parameters(self) -> None:
        """Raises ConfigError: DistributedModelParallel calls it on what it replicates."""
        raise _not_sharded("memory asked for")


def _not_sharded(event: str) -> ConfigError:
    return ConfigError(
        f"a UnifiedTable that is not sharded ({event})",
        "wrap the model in DistributedModelParallel with UnifiedTableSharder(), and plan the table "
        "under its module path",
    )
