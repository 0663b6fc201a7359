"""The torchrec engine over several ranks: TorchRec's own modules, row-wise, and nothing of ours.

    RowBatch --bags--> EmbeddingBagCollection under DistributedModelParallel --sums--> vectors

The reference the exchange engine is held against. One table, and one key: N bags, where every
lookup of a sample is a bag of one row and every list a bag of its values. TorchRec pools them by
sum, the mean is a division here. It has no notion of what the ranks agreed on, so three things are
done for it:

- gloo has no collectives of uneven sizes, so every rank brings as many bags as the one with most
  (empty ones, which move no row);
- its CPU kernel takes no empty shard, so the table is rounded up to as many rows on every rank;
- it divides the table's gradient by the number of ranks, to go with the average of data-parallel
  gradients. Here gradients are parts of one global loss, so they are multiplied first.

What TorchRec says of a lost rank inside a backward pass comes as its own RuntimeError.
"""

from typing import Any

import sharding.silence  # noqa: F401 # isort: skip

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.distributed.comm_ops import get_gradient_division
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from features.errors import ConfigError, LostRankError
from features.routing import RowBatch
from features.settings import TableSettings
from sharding.assemble import flat_rows
from sharding.bounds import shard_bounds
from sharding.fbgemm import FbgemmEngine, OneStep, SplitTableBatchedEmbeddingBagsCodegen
from sharding.ranks import Ranks

_TABLE, _KEY = "table", "rows"


class TorchRecRanksEngine(FbgemmEngine):
    """This rank's part of a table that TorchRec shards by rows."""

    def __init__(
        self,
        rows: int,
        width: int,
        settings: TableSettings,
        threads: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        super().__init__(rows, width, settings, threads, device, ranks)
        self._model = _shard(self._collection(), self.kernel_arguments(), device, ranks)
        self.adopt(_kernel_of(self._model))
        self._received = torch.empty(0, dtype=torch.int64)
        self._kernel.register_forward_pre_hook(self._remember, with_kwargs=True)

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`."""
        rows, lengths = flat_rows(batch), _lengths(batch)
        num_bags = self._agree(rows, len(lengths))
        padded = np.zeros(num_bags, np.int64)
        padded[: len(lengths)] = lengths
        learning_rate = self.prepare_step() if torch.is_grad_enabled() else 0.0
        bags = KeyedJaggedTensor(
            keys=[_KEY],
            values=torch.from_numpy(np.ascontiguousarray(rows)).to(self.device),
            lengths=torch.from_numpy(padded).to(self.device),
        )
        pooled: Tensor = self._model(bags).values()
        if pooled.requires_grad:
            received = self._received
            step = OneStep(self, learning_rate, lambda: received.cpu().numpy())
            pooled.register_hook(step)  # type: ignore[no-untyped-call]
            pooled.register_hook(self._undo_division)  # type: ignore[no-untyped-call]
        return _place(pooled[: len(lengths), : self.width], lengths, batch)

    def _collection(self) -> EmbeddingBagCollection:
        """Returns the table as TorchRec declares one, without memory."""
        block = shard_bounds(self.rows, self.ranks.world_size)[1]
        config = EmbeddingBagConfig(
            name=_TABLE,
            num_embeddings=block * self.ranks.world_size,
            embedding_dim=self.padded_width,
            feature_names=[_KEY],
            pooling=PoolingType.SUM,
            # Rows get their values afterwards.
            init_fn=nn.init.zeros_,
        )
        return EmbeddingBagCollection([config], device=torch.device("meta"))

    def _agree(self, rows: NDArray[np.int64], num_bags: int) -> int:
        """Returns the largest of all ranks' numbers of bags, at least 1.

        A row outside the table is an IndexError on its rank and a LostRankError on the others.
        """
        counts = torch.zeros(self.ranks.world_size, dtype=torch.int64, device=self.device)
        try:
            self.check_rows(rows)
        except IndexError:
            counts[self.ranks.rank] = -1
            self.ranks.sum(counts)
            raise
        counts[self.ranks.rank] = num_bags
        self.ranks.sum(counts)
        if int(counts.min()) < 0:
            raise LostRankError(
                f"rank {int(counts.argmin())} asked for a row outside the table",
                "look at what that rank says",
            )
        return max(1, int(counts.max()))

    def _undo_division(self, gradient: Tensor) -> Tensor:
        return gradient * self.ranks.world_size if get_gradient_division() else gradient

    def _remember(self, _kernel: nn.Module, args: Any, kwargs: Any) -> None:
        """Keeps the local rows that all ranks asked of this one."""
        self._received = kwargs["indices"] if "indices" in kwargs else args[0]


def _lengths(batch: RowBatch) -> NDArray[np.int64]:
    """Returns the number of rows of each bag int64[N], in the order of `flat_rows`."""
    ones = np.ones(batch.rows.size, np.int64)
    lists = [np.tile(np.diff(bag.offsets), len(bag.rows)) for bag in batch.bags]
    return np.concatenate([ones, *lists])


def _place(pooled: Tensor, lengths: NDArray[np.int64], batch: RowBatch) -> Tensor:
    """Returns the embedding [B, W] made of the sums [N, d] of the bags; means are divided here."""
    columns = batch.columns.tolist()
    is_mean = [False] * len(columns)
    width = pooled.shape[1]
    for bag in batch.bags:
        columns += [bag.column + k * width for k in range(len(bag.rows))]
        is_mean += [bag.mean] * len(bag.rows)
    if any(is_mean):
        divisors = np.where(np.repeat(is_mean, batch.num_rows), np.maximum(lengths, 1), 1)
        pooled = pooled / torch.from_numpy(divisors).to(pooled).unsqueeze(1)
    pieces = pooled.reshape(len(columns), batch.num_rows, width).transpose(0, 1)
    order = np.argsort(columns)
    if (order != np.arange(len(order))).any():
        pieces = pieces[:, torch.from_numpy(order).to(pooled.device)]
    return pieces.reshape(batch.num_rows, len(columns) * width)


def _shard(
    collection: EmbeddingBagCollection,
    arguments: dict[str, Any],
    device: torch.device,
    ranks: Ranks,
) -> DistributedModelParallel:
    """Returns the collection with its rows spread over the ranks and its optimizer fused."""
    sharder = EmbeddingBagCollectionSharder(fused_params=arguments)
    plan = construct_module_sharding_plan(
        collection,
        # Left to itself it takes the kernel "dense" on a CPU, which trains nothing.
        {_TABLE: row_wise(compute_kernel="fused")},
        sharder=sharder,
        local_size=Ranks.on_this_machine() if device.type == "cuda" else ranks.world_size,
        world_size=ranks.world_size,
        device_type=device.type,
    )
    model = DistributedModelParallel(
        collection,
        env=ShardingEnv.from_process_group(ranks.group),
        device=device,
        plan=ShardingPlan({"": plan}),
        sharders=[sharder],
        init_data_parallel=False,
    )
    if plan[_TABLE].compute_kernel != "fused" or not isinstance(
        model.module, ShardedEmbeddingBagCollection
    ):
        raise ConfigError(
            f"this release of TorchRec made {type(model.module).__name__} of the table, with "
            f'kernel "{plan[_TABLE].compute_kernel}"',
            "install the releases of requirements.txt",
        )
    return model


def _kernel_of(model: DistributedModelParallel) -> SplitTableBatchedEmbeddingBagsCodegen:
    """Returns the only kernel of a sharded collection, which keeps it out of `modules()`."""
    [kernel] = [
        grouped.emb_module for lookup in model.module._lookups for grouped in lookup._emb_modules
    ]
    return kernel
