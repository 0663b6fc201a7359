"""The table engine: where the rows live, how they are looked up, and what trains them.

B samples, W columns of the embedding (`RowBatch.out_width`).

    RowBatch --lookup--> vectors f32[B, W] --tower, loss, backward--> gradient --optimizer--> rows

Both engines apply the optimizer inside the backward pass, once for each row the batch touched and
on the sum of that row's gradients; no gradient of the table ever exists, so nothing can clip it or
skip it afterwards: look at the loss before `backward`. What follows from this, for both engines:

- Each lookup that takes part in a backward pass is an optimizer step of its own. Two lookups before
  one backward pass are two steps, one after the other, in the order backward reaches them, each
  with the gradient at the rows as they were looked up.
- One lookup is one step: a second backward pass through it is refused.
- A gradient of a gradient (`create_graph=True`) is refused.
- Under `torch.no_grad()` a lookup is only a lookup.
- A learning rate counts from the next lookup on.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import ConfigError, PlanError, SnapshotError
from features.routing import RowBatch
from features.settings import TableSettings
from sharding.footprint import footprint, resolve_engine

# read(name, first, last, out) fills `out`, maybe strided, with rows first..last-1 of a tensor.
StateReader = Callable[[str, int, int, NDArray[np.float32]], None]
Scalars = dict[str, int | str]

# Rows are restored in blocks of this many bytes, so that a reader's buffer stays small.
_BLOCK_BYTES = 32 << 20

_MODULES = {"fused": "sharding.fused", "torchrec": "sharding.torchrec_engine"}

# State tensors of each optimizer, in the kernels' order; the names are FBGEMM's.
STATE_NAMES: dict[str, tuple[str, ...]] = {
    "rowwise_adagrad": ("momentum1",),
    "adagrad": ("momentum1",),
    "adam": ("momentum1", "momentum2"),
    "sgd": (),
}


class TableEngine(ABC):
    """A table of float32 rows with its optimizer."""

    name: ClassVar[str]

    def __init__(
        self, rows: int, width: int, settings: TableSettings, threads: int, device: torch.device
    ) -> None:
        self.rows = rows
        self.width = width
        self.num_threads = threads
        self.device = device
        self.settings = settings
        self.optimizer = settings.optimizer
        self.step = 0
        """Optimizer steps applied so far."""
        self._learning_rate = settings.learning_rate
        self._tensors: dict[str, Tensor] = {}

    @property
    def learning_rate(self) -> float:
        """Learning rate of the rows, from the next lookup on."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not 0 <= value < float("inf"):
            raise ConfigError(
                f"the table's learning rate is {value}", "give a finite number that is not negative"
            )
        self._learning_rate = value

    @abstractmethod
    def lookup(self, batch: RowBatch) -> Tensor:
        """Returns the vectors float32[B, W] of a batch; backward through them trains the rows.

        The batch's arrays must stay as they are until backward has run. Raises IndexError for a row
        outside the table.
        """

    @abstractmethod
    def apply_gradient(self, batch: RowBatch, gradient: Tensor) -> None:
        """Applies one optimizer step for a gradient float32[B, W] of a batch's vectors."""

    @property
    @abstractmethod
    def state_width(self) -> int:
        """Columns over which row-wise Adagrad takes its mean: more than `width` where rows are
        padded."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Bytes of parameters and optimizer state, padding included."""

    @abstractmethod
    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state."""

    @property
    def weight(self) -> Tensor:
        """The rows float32[rows, width] themselves: writing here writes the table."""
        return self._tensors["weight"]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `state`, live: writing there writes the table."""
        return dict(self._tensors)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Everything training changed, beside `scalars`: "weight" and the optimizer's "momentum1",
        "momentum2".

        On a CPU these are views of the live memory (rows may be strided), elsewhere copies.
        """
        return {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}

    def scalars(self) -> Scalars:
        """What `state` needs beside it to be read back, as JSON values."""
        return {"optimizer": self.optimizer, "step": self.step, "state_width": self.state_width}

    def load_state(self, read: StateReader, scalars: Mapping[str, object]) -> None:
        """Restores `state` and `scalars`, of this engine or another with the same optimizer.

        Raises SnapshotError where the scalars are damaged or belong to another optimizer, before
        anything is read.
        """
        step, state_width = self._check_scalars(scalars)
        for name, tensor in self._tensors.items():
            row_bytes = tensor[0].numel() * tensor.element_size()
            block = max(1, _BLOCK_BYTES // row_bytes)
            for first in range(0, self.rows, block):
                target = tensor[first : first + block]
                host = target if target.device.type == "cpu" else torch.empty(target.shape)
                read(name, first, first + len(target), host.numpy())
                if host is not target:
                    target.copy_(host)
        if self.optimizer == "rowwise_adagrad" and state_width != self.state_width:
            # A mean over padded columns counts zeros in: bring it to this engine's width.
            self._tensors["momentum1"].mul_(state_width / self.state_width)
        self.step = step

    def _check_scalars(self, scalars: Mapping[str, object]) -> tuple[int, int]:
        optimizer = scalars.get("optimizer")
        if optimizer != self.optimizer:
            raise SnapshotError(
                f'the saved table was trained by optimizer "{optimizer}", this one is trained by '
                f'"{self.optimizer}"',
                f'set table.optimizer = "{optimizer}"',
            )
        step, state_width = scalars.get("step"), scalars.get("state_width")
        if not _is_count(step) or not _is_count(state_width) or not state_width:
            raise SnapshotError(
                "the saved table's scalars are damaged: "
                f"step {step!r}, state_width {state_width!r}",
                "load another checkpoint",
            )
        return step, state_width

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.clone()

    def __reduce__(self) -> tuple[object, ...]:
        raise ConfigError(
            "a table engine cannot be pickled", "save its state (state_dict) and load that"
        )


def create_engine(
    name: str,
    rows: int,
    width: int,
    settings: TableSettings,
    seed: int,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> TableEngine:
    """Returns a table with its initial values: "fused", "torchrec", or "auto" for the device's own.

    `threads` None takes torch's number of threads. Raises ConfigError where the engine is not
    available or refuses the settings, PlanError where memory does not suffice.
    """
    device = torch.device(device)
    if name == "auto":
        name = resolve_engine(settings.model_copy(update={"engine": "auto"}), device.type)
    if name not in _MODULES:
        raise ConfigError(
            f'there is no table engine "{name}"', f"choose one of auto, {', '.join(_MODULES)}"
        )
    reason = _why_unavailable(name)
    if reason is not None:
        others = [other for other in _MODULES if other != name and _why_unavailable(other) is None]
        raise ConfigError(
            f'table engine "{name}" is not available here: {reason}',
            f'set table.engine = "{others[0]}"' if others else "see `muxtable doctor`",
        )
    create = importlib.import_module(_MODULES[name]).create
    try:
        return create(rows, width, settings, seed, threads or torch.get_num_threads(), device)
    except MemoryError as exc:
        needed = footprint(name, rows, width, settings.optimizer).total_bytes
        raise PlanError(
            f"{rows:,} rows of width {width} with optimizer {settings.optimizer} need {needed:,} "
            "bytes, and the system gives no such memory",
            "lower table.budget or table.rows, or take an optimizer with less state",
        ) from exc


def available_engines() -> dict[str, str | None]:
    """Returns for each engine None where it works here, else the reason why not."""
    return {name: _why_unavailable(name) for name in _MODULES}


def _why_unavailable(name: str) -> str | None:
    try:
        importlib.import_module(_MODULES[name])
    except (ImportError, OSError, RuntimeError, AttributeError) as exc:
        # Binary packages that do not fit together fail in any of these ways.
        return f"{type(exc).__name__}: {exc}"
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
