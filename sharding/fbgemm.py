"""What the torchrec engines of one rank and of several share: a table in FBGEMM's kernel.

This is the only module that imports FBGEMM. On a CPU everything here is run by tests. **On CUDA it
was never run**: the same calls with the device handed through.

FBGEMM wants rows of a multiple of 4 floats, so rows are padded with zeros that no gradient reaches.
Row-wise Adagrad then takes its mean over the padded width p instead of d, which makes its state
smaller by d / p; with learning rate and eps both scaled by sqrt(d / p) the rows move just as
unpadded ones do:

    lr' g / (sqrt(s d/p) + eps') = lr g / (sqrt(s) + eps)      where x' = x sqrt(d/p)
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import ConfigError
from features.routing import RowBatch
from features.settings import TableSettings
from native import memory
from native.order import derive
from sharding.footprint import fbgemm_width
from sharding.gradient import already_applied, check_gradient, refuse_second_order
from sharding.ranks import Ranks
from sharding.shard import STATE_NAMES
from sharding.table import TableEngine

with warnings.catch_warnings():
    # The CPU build warns that its SSD variants are missing.
    warnings.simplefilter("ignore")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        BoundsCheckMode,
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

__all__ = [
    "BoundsCheckMode",
    "ComputeDevice",
    "EmbeddingLocation",
    "FbgemmEngine",
    "OneStep",
    "PoolingMode",
    "SparseType",
    "SplitTableBatchedEmbeddingBagsCodegen",
    "check_optimizer",
]

_OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "sgd": EmbOptimType.EXACT_SGD,
}


class FbgemmEngine(TableEngine):
    """A table, or this rank's part of one, in FBGEMM's kernel."""

    name: ClassVar[str] = "torchrec"

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
        self.padded_width = fbgemm_width(width)
        self.scale = (
            math.sqrt(width / self.padded_width) if settings.optimizer == "rowwise_adagrad" else 1.0
        )
        self._kernel: SplitTableBatchedEmbeddingBagsCodegen

    def kernel_arguments(self) -> dict[str, Any]:
        """Returns what the settings mean to the kernel."""
        settings = self.settings
        arguments: dict[str, Any] = {
            "optimizer": _OPTIMIZERS[settings.optimizer],
            "learning_rate": settings.learning_rate * self.scale,
            # Rows are checked before they get here; the kernel would mend them silently.
            "bounds_check_mode": BoundsCheckMode.NONE,
        }
        if settings.optimizer != "sgd":
            arguments["eps"] = settings.eps * self.scale
        if settings.optimizer == "adam":
            arguments |= {"beta1": settings.beta1, "beta2": settings.beta2}
        return arguments

    def adopt(self, kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
        """Makes the first rows of a kernel's only table the engine's rows, all zero."""
        self._kernel = kernel
        names = STATE_NAMES[self.optimizer]
        states = kernel.split_optimizer_states()[0] if names else []
        weight = kernel.split_embedding_weights()[0]
        # Padding stays zero from here on: it is never read, and no gradient reaches it.
        weight.detach().zero_()
        self._tensors = {
            name: tensor[: self.num_local_rows, : self.width]
            if tensor.dim() == 2
            else tensor[: self.num_local_rows]
            for name, tensor in zip(("weight", *names), [weight.detach(), *states], strict=True)
        }

    def apply_gradient(self, batch: RowBatch, gradient: Tensor) -> None:
        """Applies one optimizer step for a gradient float32[B, W] of a batch's vectors."""
        gradient = check_gradient(gradient.detach(), batch.num_rows, batch.out_width)
        with torch.enable_grad():
            vectors = self.lookup(batch)
        vectors.backward(gradient)  # type: ignore[no-untyped-call]

    @property
    def state_width(self) -> int:
        """The padded width: row-wise Adagrad's mean counts the padding's zeros in."""
        return self.padded_width

    def memory_bytes(self) -> int:
        """Bytes of this rank's parameters and optimizer state, padding included."""
        return sum(
            tensor.stride(0) * len(tensor) * tensor.element_size()
            for tensor in self._tensors.values()
        )

    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state; every rank makes the call."""
        other = type(self)(
            self.rows, self.width, self.settings, self.num_threads, self.device, self.ranks
        )
        other.copy_from(self)
        return other

    def fill(self, seed: int) -> None:
        """Writes the initial values of `seed`, on a GPU through a bounded buffer of the host."""
        key, scale, threads = derive("init", seed), self.settings.init_scale, self.num_threads
        if self.weight.device.type == "cpu":
            rows = self.weight.numpy()
            memory.fill_uniform(rows, key, scale, first_row=self.first_row, threads=threads)
            return
        block = max(1, (32 << 20) // (4 * self.width))
        buffer = np.empty((block, self.width), np.float32)
        for first in range(0, self.num_local_rows, block):
            part = buffer[: self.num_local_rows - first]
            first_row = self.first_row + first
            memory.fill_uniform(part, key, scale, first_row=first_row, threads=threads)
            self.weight[first : first + len(part)].copy_(torch.from_numpy(part))

    def check_rows(self, rows: NDArray[np.int64]) -> None:
        """Raises IndexError for a row outside the whole table."""
        if not rows.size:
            return
        for row in (int(rows.min()), int(rows.max())):
            if not 0 <= row < self.rows:
                raise IndexError(f"a row is {row}, the table has {self.rows} rows")

    def prepare_step(self) -> float:
        """Readies the kernel for a lookup that trains, and returns its learning rate."""
        learning_rate = self._learning_rate * self.scale
        self._kernel.set_learning_rate(learning_rate)
        if self.optimizer == "adam":
            # FBGEMM counts lookups; the bias correction needs steps.
            self._kernel.iter_cpu.fill_(self.step)
            self._kernel.iter.fill_(self.step)
        return learning_rate


class OneStep:
    """The guard in front of the kernel's backward pass: counts it, and lets it run once.

    A hook of the tensor that reaches the kernel; `moved` gives the local rows of the step.
    """

    def __init__(
        self, engine: FbgemmEngine, learning_rate: float, moved: Callable[[], NDArray[np.int64]]
    ) -> None:
        self._engine: FbgemmEngine | None = engine
        self._learning_rate = learning_rate
        self._moved = moved

    def __call__(self, _gradient: Tensor) -> None:
        """Readies the kernel for its step."""
        refuse_second_order()
        engine = self._engine
        if engine is None:
            raise already_applied()
        engine._kernel.set_learning_rate(self._learning_rate)
        engine.step += 1
        if engine.on_touched is not None:
            engine.on_touched(self._moved())
        self._engine = None


def check_optimizer(settings: TableSettings, device: torch.device, other: str) -> None:
    """Raises ConfigError for what FBGEMM has no kernel for; `other` is the engine that has."""
    if settings.optimizer == "adam" and device.type == "cpu":
        raise ConfigError(
            'table engine "torchrec" has no Adam on a CPU (FBGEMM refuses it)',
            f'set table.engine = "{other}", or table.optimizer = "rowwise_adagrad"',
        )
