"""The torchrec engine: TorchRec's kernel, FBGEMM's table-batched embedding, behind our interface.

The GPU path, and the reference the fused and exchange engines are held against. Here is the table
of one process: one feature, no pooling; rows in, vectors out; the lists are pooled and the columns
placed by torch operations on top. Over several ranks it is `sharding.torchrec_ranks`.
"""

import numpy as np
import torch
from torch import Tensor

from features.errors import ConfigError
from features.routing import RowBatch
from features.settings import TableSettings
from sharding.assemble import assemble, flat_rows
from sharding.fbgemm import (
    ComputeDevice,
    EmbeddingLocation,
    FbgemmEngine,
    OneStep,
    PoolingMode,
    SparseType,
    SplitTableBatchedEmbeddingBagsCodegen,
    check_optimizer,
)
from sharding.ranks import Ranks


class TorchRecEngine(FbgemmEngine):
    """A table in FBGEMM's kernel, in this process alone."""

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
        on_cpu = device.type == "cpu"
        kernel = SplitTableBatchedEmbeddingBagsCodegen(
            [
                (
                    rows,
                    self.padded_width,
                    EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE,
                    ComputeDevice.CPU if on_cpu else ComputeDevice.CUDA,
                )
            ],
            feature_table_map=[0],
            pooling_mode=PoolingMode.NONE,
            output_dtype=SparseType.FP32,
            device=device,
            **self.kernel_arguments(),
        )
        self.adopt(kernel)

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`."""
        rows = flat_rows(batch)
        self.check_rows(rows)
        learning_rate = self.prepare_step() if torch.is_grad_enabled() else 0.0
        indices = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        offsets = torch.tensor([0, len(rows)], device=self.device)
        vectors: Tensor = self._kernel(indices, offsets)
        if vectors.requires_grad:
            step = OneStep(self, learning_rate, lambda: rows)
            vectors.register_hook(step)  # type: ignore[no-untyped-call]
        return assemble(vectors[:, : self.width], batch)


def create(
    rows: int,
    width: int,
    settings: TableSettings,
    seed: int,
    threads: int,
    device: torch.device,
    ranks: Ranks,
) -> FbgemmEngine:
    """Returns an FBGEMM table, or this rank's part of one, with the initial values of `seed`."""
    is_alone = ranks.world_size == 1
    check_optimizer(settings, device, other="fused" if is_alone else "exchange")
    kind = TorchRecEngine if is_alone else _ranks_engine()
    try:
        engine = kind(rows, width, settings, threads, device, ranks)
    except RuntimeError as exc:
        if "memory" not in str(exc):
            raise
        # torch's allocators say it as a RuntimeError.
        raise MemoryError(str(exc)) from exc
    engine.fill(seed)
    return engine


def _ranks_engine() -> type[FbgemmEngine]:
    try:
        from sharding.torchrec_ranks import TorchRecRanksEngine
    except ImportError as exc:
        raise ConfigError(
            f'table engine "torchrec" needs TorchRec for several ranks: {exc}',
            'set table.engine = "exchange", or install the releases of requirements.txt',
        ) from exc
    return TorchRecRanksEngine
