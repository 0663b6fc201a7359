"""What TorchRec sees of a sharded table's tensors: global ones, and the optimizer that has them.

A global tensor shares memory with the rows of this rank. It is a DTensor where the environment asks
for one (`ShardingEnv.output_dtensor`), else a ShardedTensor, which torch 2.13 calls deprecated. A
table whose rows are padded in memory has DTensors always: the other cannot describe it.
"""
# ruff: noqa: ARG002 TorchRec names the arguments

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard as TensorShard
from torch.distributed.tensor import DTensor, Shard
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.fused import FusedOptimizer

from features.errors import SnapshotError
from sharding.table import TableEngine


def global_tensors(
    engine: TableEngine, shards: Sequence[ShardMetadata], env: ShardingEnv
) -> dict[str, Any]:
    """Returns the engine's tensors as those of all ranks; as they are where there is no group."""
    if env.process_group is None:
        return dict(engine.tensors())
    # Asked of the stride, which is the same on all ranks: also an empty part has one.
    as_dtensors = env.output_dtensor or engine.weight.stride(0) != engine.width
    return {
        name: _dtensor(local, engine.rows, env)
        if as_dtensors
        else _sharded_tensor(local, shards, engine.rows, env)
        for name, local in engine.tensors().items()
    }


def _dtensor(local: Tensor, rows: int, env: ShardingEnv) -> DTensor:
    shape = torch.Size([rows, *local.shape[1:]])
    stride = (shape[1], 1) if len(shape) == 2 else (1,)
    return DTensor.from_local(
        local, env.device_mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
    )


def _sharded_tensor(
    local: Tensor, shards: Sequence[ShardMetadata], rows: int, env: ShardingEnv
) -> ShardedTensor:
    shape = torch.Size([rows, *local.shape[1:]])
    parts = [
        ShardMetadata(
            [shard.shard_offsets[0], *[0] * (local.dim() - 1)],
            [shard.shard_sizes[0], *local.shape[1:]],
            shard.placement,
        )
        for shard in shards
    ]
    properties = TensorProperties(dtype=local.dtype, layout=local.layout, requires_grad=False)
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        [TensorShard(local, parts[env.rank])],
        ShardedTensorMetadata(parts, shape, properties),
        process_group=env.process_group,
    )


def local_part(value: Any, engine: TableEngine, name: str) -> Tensor:
    """Returns this rank's rows of a tensor: a global one, the whole or the rows themselves.

    Raises SnapshotError where it is of another table.
    """
    if isinstance(value, DTensor):
        part = value.to_local()
    elif isinstance(value, ShardedTensor):
        part = value.local_shards()[0].tensor
    elif len(value) == engine.rows:
        part = value[engine.first_row : engine.first_row + engine.num_local_rows]
    else:
        part = value
    if part.shape != engine.weight.shape:
        raise SnapshotError(
            f"{name} to load has {list(part.shape)} on rank {engine.ranks.rank}, the table "
            f"{list(engine.weight.shape)}",
            "load the state of a table of the same rows and width, on as many ranks, or let "
            "torch.distributed.checkpoint cut it anew",
        )
    return part


class UnifiedTableOptimizer(FusedOptimizer):  # type: ignore[misc]
    """The optimizer inside the table's backward pass, as TorchRec and torch see one.

    Its learning rate counts from the next `step` or `zero_grad` on. State: "momentum1",
    "momentum2", sharded, under "weight".
    """

    def __init__(self, engine: TableEngine, tensors: Mapping[str, Any]) -> None:
        weight = tensors["weight"]
        states = {name: tensor for name, tensor in tensors.items() if name != "weight"}
        self._engine = engine
        super().__init__(
            {"weight": weight},
            {weight: states},
            [{"params": [weight], "lr": engine.learning_rate}],
        )

    def step(self, closure: object = None) -> None:
        """Takes the learning rate; the rows have moved already."""
        self._take_rate()

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Takes the learning rate; the rows have no gradient."""
        self._take_rate()

    def post_load_state_dict(self) -> None:
        """Takes the learning rate that was loaded."""
        self._take_rate()

    def _take_rate(self) -> None:
        self._engine.learning_rate = self.param_groups[0]["lr"]
