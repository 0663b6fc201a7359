"""The torchrec engine: TorchRec's kernel, FBGEMM's table-batched embedding, behind our interface.

The GPU path, and the reference the fused engine is held against. This is the only module that
imports FBGEMM. One table, one feature, no pooling: rows in, vectors out; the lists are pooled and
the columns placed by torch operations on top.

On a CPU everything here is run by tests. **On CUDA it was never run**: the same calls with the
device handed through.

FBGEMM wants rows of a multiple of 4 floats, so rows are padded with zeros that no gradient reaches.
Row-wise Adagrad then takes its mean over the padded width p instead of d, which makes its state
smaller by d / p; with learning rate and eps both scaled by sqrt(d / p) the rows move just as
unpadded ones do:

    lr' g / (sqrt(s d/p) + eps') = lr g / (sqrt(s) + eps)      where x' = x sqrt(d/p)
"""

import math
import warnings
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from features.errors import ConfigError
from features.routing import RowBatch
from features.settings import TableSettings
from native import memory
from native.order import derive
from sharding.assemble import assemble, flat_rows
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

_OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "sgd": EmbOptimType.EXACT_SGD,
}


class TorchRecEngine(TableEngine):
    """A table in FBGEMM's kernel."""

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
        self._padded = fbgemm_width(width)
        self._scale = (
            math.sqrt(width / self._padded) if settings.optimizer == "rowwise_adagrad" else 1.0
        )
        on_cpu = device.type == "cpu"
        arguments = {} if settings.optimizer == "sgd" else {"eps": settings.eps * self._scale}
        if settings.optimizer == "adam":
            arguments |= {"beta1": settings.beta1, "beta2": settings.beta2}
        self._kernel = SplitTableBatchedEmbeddingBagsCodegen(
            [
                (
                    rows,
                    self._padded,
                    EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE,
                    ComputeDevice.CPU if on_cpu else ComputeDevice.CUDA,
                )
            ],
            feature_table_map=[0],
            optimizer=_OPTIMIZERS[settings.optimizer],
            learning_rate=settings.learning_rate * self._scale,
            pooling_mode=PoolingMode.NONE,
            output_dtype=SparseType.FP32,
            # We check rows before they get here; the kernel would mend them silently.
            bounds_check_mode=BoundsCheckMode.NONE,
            device=device,
            **arguments,
        )
        # Padding stays zero from here on: it is never read, and no gradient reaches it.
        self._kernel.split_embedding_weights()[0].zero_()
        self._tensors = self._views()

    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; see `TableEngine.lookup`."""
        rows = flat_rows(batch)
        self._check_rows(rows)
        learning_rate = self._learning_rate * self._scale
        if torch.is_grad_enabled():
            self._kernel.set_learning_rate(learning_rate)
            if self.optimizer == "adam":
                # FBGEMM counts lookups; the bias correction needs steps.
                self._kernel.iter_cpu.fill_(self.step)
                self._kernel.iter.fill_(self.step)
        indices = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        offsets = torch.tensor([0, len(rows)], device=self.device)
        vectors: Tensor = self._kernel(indices, offsets)
        if vectors.requires_grad:
            vectors.register_hook(_OneStep(self, learning_rate))  # type: ignore[no-untyped-call]
        return assemble(vectors[:, : self.width], batch)

    def apply_gradient(self, batch: RowBatch, gradient: Tensor) -> None:
        """Applies one optimizer step for a gradient float32[B, W] of a batch's vectors."""
        gradient = check_gradient(gradient.detach(), batch.num_rows, batch.out_width)
        with torch.enable_grad():
            vectors = self.lookup(batch)
        vectors.backward(gradient)  # type: ignore[no-untyped-call]

    @property
    def state_width(self) -> int:
        """The padded width: row-wise Adagrad's mean counts the padding's zeros in."""
        return self._padded

    def memory_bytes(self) -> int:
        """Bytes of parameters and optimizer state, padding included."""
        return sum(
            tensor.untyped_storage().nbytes() if tensor.dim() == 2 else tensor.nbytes
            for tensor in self._tensors.values()
        )

    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state."""
        other = type(self)(
            self.rows, self.width, self.settings, self.num_threads, self.device, self.ranks
        )
        for name, tensor in self._tensors.items():
            other._tensors[name].copy_(tensor)
        other.step = self.step
        other.learning_rate = self.learning_rate
        return other

    def _views(self) -> dict[str, Tensor]:
        names = STATE_NAMES[self.optimizer]
        states = self._kernel.split_optimizer_states()[0] if names else []
        tensors = [self._kernel.split_embedding_weights()[0], *states]
        return {
            name: tensor[:, : self.width] if tensor.dim() == 2 else tensor
            for name, tensor in zip(("weight", *names), tensors, strict=True)
        }

    def _check_rows(self, rows: np.ndarray) -> None:
        if not rows.size:
            return
        for row in (int(rows.min()), int(rows.max())):
            if not 0 <= row < self.rows:
                raise IndexError(f"a row is {row}, the table has {self.rows} rows")


class _OneStep:
    """The guard in front of the kernel's backward pass: counts it, and lets it run once."""

    def __init__(self, engine: TorchRecEngine, learning_rate: float) -> None:
        self._engine: TorchRecEngine | None = engine
        self._learning_rate = learning_rate

    def __call__(self, _gradient: Tensor) -> None:
        refuse_second_order()
        if self._engine is None:
            raise already_applied()
        self._engine._kernel.set_learning_rate(self._learning_rate)
        self._engine.step += 1
        self._engine = None


def create(
    rows: int,
    width: int,
    settings: TableSettings,
    seed: int,
    threads: int,
    device: torch.device,
    ranks: Ranks,
) -> TorchRecEngine:
    """Returns an FBGEMM table with the initial values of `seed`."""
    if settings.optimizer == "adam" and device.type == "cpu":
        raise ConfigError(
            'table engine "torchrec" has no Adam on a CPU (FBGEMM refuses it)',
            'set table.engine = "fused", or table.optimizer = "rowwise_adagrad"',
        )
    try:
        engine = TorchRecEngine(rows, width, settings, threads, device, ranks)
    except RuntimeError as exc:
        if "memory" not in str(exc):
            raise
        # torch's allocators say it as a RuntimeError.
        raise MemoryError(str(exc)) from exc
    _fill(engine.weight, derive("init", seed), settings.init_scale, threads)
    return engine


def _fill(weight: Tensor, key: int, scale: float, threads: int) -> None:
    """Writes the initial values, on a GPU through a bounded buffer of the host."""
    if weight.device.type == "cpu":
        memory.fill_uniform(weight.numpy(), key, scale, first_row=0, threads=threads)
        return
    block = max(1, (32 << 20) // (4 * weight.shape[1]))
    buffer = np.empty((block, weight.shape[1]), np.float32)
    for first in range(0, len(weight), block):
        part = buffer[: len(weight) - first]
        memory.fill_uniform(part, key, scale, first_row=first, threads=threads)
        weight[first : first + len(part)].copy_(torch.from_numpy(part))
