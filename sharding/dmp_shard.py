"""This rank's part of a UnifiedTable, in the stages that TorchRec runs a sharded module in.

input_dist    rows -> which rows the batch needs of whom      may run ahead of other batches
compute       -> vectors                                      the rows themselves: never ahead
output_dist   nothing is left to do
"""
# ruff: noqa: ARG002 TorchRec names the arguments

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.comm_ops import get_gradient_division
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.types import (
    Awaitable,
    LazyAwaitable,
    LazyNoWait,
    NoWait,
    ParameterSharding,
    ShardedModule,
    ShardingEnv,
    ShardingType,
)
from torchrec.optim.fused import EmptyFusedOptimizer, FusedOptimizerModule
from torchrec.streamable import Multistreamable

from features.batches import RowBatch
from features.errors import ConfigError
from sharding.bounds import shard_bounds
from sharding.dmp_state import UnifiedTableOptimizer, global_tensors, local_part
from sharding.dmp_table import UnifiedTable
from sharding.ranks import Ranks
from sharding.table import TableEngine, create_engine


class Asked(Multistreamable):  # type: ignore[misc]
    """A lookup whose owners know what they are asked for; `finish` gives its vectors [B, W]."""

    def __init__(self, finish: Callable[[], Tensor]) -> None:
        self.finish = finish

    def record_stream(self, stream: torch.Stream) -> None:
        """Nothing of it lies on a device."""


class RowsContext(Multistreamable):  # type: ignore[misc]
    """What one forward pass keeps: the shape of the vectors."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()

    def record_stream(self, stream: torch.Stream) -> None:
        """Nothing of it lies on a device."""


class ShardedUnifiedTable(
    ShardedModule[Asked, Tensor, Tensor, RowsContext],  # type: ignore[misc]
    FusedOptimizerModule,  # type: ignore[misc]
):
    """Rows int64[...] in, vectors float32[..., width] out, trained inside the backward pass.

    Every rank calls it as often as the others, also with no rows. `state_dict` holds "weight",
    sharded, and "step", the optimizer steps so far.
    """

    def __init__(
        self,
        table: UnifiedTable,
        plan: ParameterSharding,
        env: ShardingEnv,
        device: torch.device,
        path: str,
    ) -> None:
        """ConfigError, naming the module's path, where the plan does not cut the table our way."""
        super().__init__()
        _check_plan(plan, table.rows, env.world_size, path)
        self.engine: TableEngine = create_engine(
            table.settings.engine,
            table.rows,
            table.width,
            table.settings,
            table.seed,
            device=device,
            ranks=Ranks(env.process_group),
        )
        self.weight = nn.Parameter(self.engine.weight)
        # Marks it for TorchRec's filter: no other optimizer may have it.
        self.weight._in_backward_optimizers = [EmptyFusedOptimizer()]  # type: ignore[attr-defined]
        tensors = global_tensors(self.engine, plan.sharding_spec.shards, env)
        self._optimizer = UnifiedTableOptimizer(self.engine, tensors)
        # Seen by no parent module, which would take it for a parameter of its own.
        object.__setattr__(self, "_whole", tensors["weight"])
        self._register_state_dict_hook(_save)
        self._register_load_state_dict_pre_hook(_load, with_module=True)

    def create_context(self) -> RowsContext:
        """Returns what one forward pass keeps."""
        return RowsContext()

    def input_dist(self, ctx: RowsContext, rows: Tensor | RowBatch) -> Awaitable[Awaitable[Asked]]:
        """Asks the owners of a batch's rows."""
        if isinstance(rows, RowBatch):
            batch, ctx.shape = rows, (rows.num_rows, rows.out_width)
        else:
            batch, ctx.shape = _as_batch(rows, self.engine.width), (*rows.shape, self.engine.width)
        return _Asking(self.engine, batch)

    def compute(self, ctx: RowsContext, dist_input: Asked | KJTList) -> Tensor:
        """Returns the vectors float32[B, W]."""
        # TorchRec's pipeline hands everything over in a list of its own.
        asked: Asked = dist_input[0] if isinstance(dist_input, KJTList) else dist_input
        vectors = asked.finish()
        if vectors.requires_grad:
            vectors.register_hook(self._divide)  # type: ignore[no-untyped-call]
        return vectors

    def output_dist(self, ctx: RowsContext, output: Tensor) -> LazyAwaitable[Tensor]:
        """Returns the vectors in the shape of the rows."""
        return LazyNoWait(output.view(ctx.shape))

    @property
    def fused_optimizer(self) -> UnifiedTableOptimizer:
        """The optimizer that ran in the backward pass: its learning rate and its state."""
        return self._optimizer

    @property
    def unsharded_module_type(self) -> type[UnifiedTable]:
        """What this was made of."""
        return UnifiedTable

    def _divide(self, gradient: Tensor) -> Tensor:
        """The owner sums over the ranks; the dense part is averaged, so this is too."""
        return gradient / self.engine.ranks.world_size if get_gradient_division() else gradient


class _Asking(Awaitable[Awaitable[Asked]]):  # type: ignore[misc]
    """A lookup before anything was said to other ranks."""

    def __init__(self, engine: TableEngine, batch: RowBatch) -> None:
        super().__init__()
        self._engine = engine
        self._batch = batch

    @property
    def awaitables(self) -> list[Awaitable[Awaitable[Asked]]]:
        """Itself: TorchRec's pipeline waits for many modules' inputs at once."""
        return [self]

    def _wait_impl(self) -> Awaitable[Asked]:
        return NoWait(Asked(self._engine.begin(self._batch)))


def _as_batch(rows: Tensor, width: int) -> RowBatch:
    """Returns rows of any shape as the one lookup of a batch."""
    numbers = rows.detach().reshape(1, -1).to("cpu", torch.int64).numpy()
    return RowBatch(numbers.shape[1], numbers, np.zeros(1, np.int64), (), width)


def _check_plan(plan: ParameterSharding, rows: int, world_size: int, path: str) -> None:
    bounds = shard_bounds(rows, world_size)
    expected = [(first, last - first) for first, last in pairwise(bounds)]
    shards = plan.sharding_spec.shards if plan.sharding_spec is not None else []
    planned = [(shard.shard_offsets[0], shard.shard_sizes[0]) for shard in shards]
    if plan.sharding_type != ShardingType.ROW_WISE.value or planned != expected:
        raise ConfigError(
            f'{path}: planned "{plan.sharding_type}" with (first row, rows) {planned}; '
            f"the table is cut row-wise as {expected}",
            'plan it with row_wise(compute_kernel="fused"), or leave the plan to TorchRec',
        )


def _save(
    module: ShardedUnifiedTable, destination: dict[str, Any], prefix: str, _metadata: object
) -> None:
    destination[prefix + "weight"] = module._whole
    destination[prefix + "step"] = torch.tensor(module.engine.step)


def _load(module: ShardedUnifiedTable, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    if prefix + "step" in state:
        module.engine.step = int(state.pop(prefix + "step"))
    name = prefix + "weight"
    if name in state:
        state[name] = local_part(state[name], module.engine, name)
