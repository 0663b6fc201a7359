"""Our table in TorchRec's DistributedModelParallel, by TorchRec's own extension point.

    class Model(nn.Module):
        def __init__(self):
            self.table = UnifiedTable(rows, width, settings)            # no memory yet
            ...
        def forward(self, batch):
            vectors = self.table(batch.rows)                            # int64[B, L] -> [B, L, d]

    model = DistributedModelParallel(Model(), sharders=[UnifiedTableSharder()])
    assert_sharded(model, "table")

Everything that speaks TorchRec works on: its planner (or a plan of yours, `row_wise()` with
`compute_kernel="fused"`), sharded state, `fused_optimizer`, `in_backward_optimizer_filter` and the
train pipeline. Rows are exchanged and trained by the engine that `settings.engine` names.

DistributedModelParallel averages the gradients of the dense part over the ranks, as TorchRec does
those of its tables (`torchrec.distributed.comm_ops.set_gradient_division`). Ours follow: the loss
of the whole is the mean of the ranks' losses.

On a GPU "auto" is the torchrec engine, FBGEMM's kernel, which takes the rows' numbers through the
host. **That was never run**; on a CPU the same path is, with engine "torchrec".
"""
# ruff: noqa: ARG002 TorchRec names the arguments

from typing import Any

import sharding.silence  # noqa: F401 # isort: skip

import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    ShardingEnv,
    ShardingType,
)

from features.errors import ConfigError
from sharding.dmp_shard import ShardedUnifiedTable
from sharding.dmp_table import UnifiedTable

__all__ = ["ShardedUnifiedTable", "UnifiedTable", "UnifiedTableSharder", "assert_sharded"]


class UnifiedTableSharder(ModuleSharder[UnifiedTable]):  # type: ignore[misc]
    """Tells TorchRec how a UnifiedTable is planned and sharded: by rows, its optimizer fused."""

    def shard(
        self,
        module: UnifiedTable,
        params: EmbeddingModuleShardingPlan,
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedUnifiedTable:
        """Returns this rank's part of the table; ConfigError where the plan is not ours."""
        return ShardedUnifiedTable(
            module,
            params["weight"],
            env,
            device or torch.device("cpu"),
            path=module_fqn or "the table",
        )

    @property
    def module_type(self) -> type[UnifiedTable]:
        """The module that is sharded; TorchRec wants it exactly, no subclass."""
        return UnifiedTable

    def shardable_parameters(self, module: UnifiedTable) -> dict[str, nn.Parameter]:
        """The rows."""
        return {"weight": module.weight}

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """By rows alone."""
        return [ShardingType.ROW_WISE.value]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """The optimizer is always inside the backward pass."""
        return [EmbeddingComputeKernel.FUSED.value]


def assert_sharded(model: DistributedModelParallel, path: str = "") -> ShardedUnifiedTable:
    """Returns the sharded table at a module path of the wrapped model, "" for the model itself.

    Raises ConfigError where DistributedModelParallel left it whole on every rank: it does so
    without a word where the plan does not name the path.
    """
    try:
        module: Any = model.module.get_submodule(path)
    except AttributeError as exc:
        raise ConfigError(
            f'the model has no module "{path}"', "give the table's path inside the wrapped model"
        ) from exc
    if not isinstance(module, ShardedUnifiedTable):
        raise ConfigError(
            f'"{path}" is {type(module).__name__}, which is not sharded: every rank has all of it',
            f'plan the table under "{path}", and pass UnifiedTableSharder() as a sharder',
        )
    return module
