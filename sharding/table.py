"""The table engine: where the rows live, how they are looked up, and what trains them.

B samples, W columns of the embedding (`RowBatch.out_width`).

    RowBatch --lookup--> vectors f32[B, W] --tower, loss, backward--> gradient --optimizer--> rows

Over several ranks (`Ranks`) each holds a range of the rows and looks up its own part of the global
batch. Lookups and their backward passes are then collective: every rank makes as many, in the same
order, also with no samples. The output gradients of all ranks are parts of the gradient of one
global loss: a row's owner sums them and divides by nothing.

All engines apply the optimizer inside the backward pass, once for each row the batch touched and
on the sum of that row's gradients; no gradient of the table ever exists, so nothing can clip it or
skip it afterwards: look at the loss before `backward`. What follows from this, for all engines:

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
from sharding.bounds import shard_bounds
from sharding.footprint import footprint, resolve_engine
from sharding.ranks import Ranks

# read(name, first, last, out) fills `out`, maybe strided, with rows first..last-1 of a tensor.
StateReader = Callable[[str, int, int, NDArray[np.float32]], None]
Scalars = dict[str, int | str]

# Rows are restored in blocks of this many bytes, so that a reader's buffer stays small.
_BLOCK_BYTES = 32 << 20

_MODULES = {
    "fused": "sharding.fused",
    "exchange": "sharding.exchange",
    "torchrec": "sharding.torchrec_engine",
}


class TableEngine(ABC):
    """A table of float32 rows with its optimizer, or this rank's part of one."""

    name: ClassVar[str]

    def __init__(
        self,
        rows: int,
        width: int,
        settings: TableSettings,
        threads: int,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.rows = rows
        """Rows of the whole table."""
        self.ranks = ranks
        bounds = shard_bounds(rows, ranks.world_size)
        self.first_row = bounds[ranks.rank]
        """The first row that this rank holds."""
        self.num_local_rows = bounds[ranks.rank + 1] - self.first_row
        """Rows that this rank holds: all, where there is one rank; maybe none."""
        self.width = width
        self.num_threads = threads
        self.device = device
        self.settings = settings
        self.optimizer = settings.optimizer
        self.step = 0
        """Optimizer steps applied so far."""
        self.on_touched: Callable[[NDArray[np.int64]], None] | None = None
        """Told of the rows each step moves, as local row numbers [n], with repetitions."""
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

    def begin(self, batch: RowBatch) -> Callable[[], Tensor]:
        """Does what of a lookup needs no row, and returns the rest of it, which gives the vectors:
        `lookup(batch)` is `begin(batch)()`. Steps of other batches may come in between."""
        return lambda: self.lookup(batch)

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
        """Bytes of this rank's parameters and optimizer state, padding included."""

    @abstractmethod
    def clone(self) -> Self:
        """Returns an engine of its own memory in the same state."""

    def copy_from(self, other: "TableEngine") -> None:
        """Takes the state of an engine of the same kind and settings."""
        for name, tensor in other._tensors.items():
            self._tensors[name].copy_(tensor)
        self.step = other.step
        self.learning_rate = other.learning_rate

    @property
    def weight(self) -> Tensor:
        """This rank's rows float32[num_local_rows, width] themselves: writing here writes the
        table."""
        return self._tensors["weight"]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `state`, live: writing there writes the table."""
        return dict(self._tensors)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Everything training changed, beside `scalars`: "weight" and the optimizer's "momentum1",
        "momentum2", each with this rank's rows.

        On a CPU these are views of the live memory (rows may be strided), elsewhere copies.
        """
        return {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}

    def scalars(self) -> Scalars:
        """What `state` needs beside it to be read back, as JSON values."""
        return {"optimizer": self.optimizer, "step": self.step, "state_width": self.state_width}

    def load_state(self, read: StateReader, scalars: Mapping[str, object]) -> None:
        """Restores `state` and `scalars`, of this engine or another with the same optimizer.

        `read` is asked for this rank's rows by their numbers in the whole table. Raises
        SnapshotError where the scalars are damaged or belong to another optimizer, before anything
        is read.
        """
        step, state_width = self._check_scalars(scalars)
        for name, tensor in self._tensors.items():
            row_bytes = tensor.shape[1:].numel() * tensor.element_size()
            block = max(1, _BLOCK_BYTES // row_bytes)
            for first in range(0, self.num_local_rows, block):
                target = tensor[first : first + block]
                host = target if target.device.type == "cpu" else torch.empty(target.shape)
                global_row = self.first_row + first
                read(name, global_row, global_row + len(target), host.numpy())
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
    ranks: Ranks | None = None,
) -> TableEngine:
    """Returns a table with its initial values, or over several ranks this rank's part of it.

    `name` is "fused", "exchange", "torchrec", or "auto" for what suits the device and the ranks.
    `threads` None takes torch's number of threads, `ranks` None is one process alone. Collective:
    every rank makes the same call. Raises ConfigError where the engine is not available or refuses
    the settings, PlanError where memory does not suffice.
    """
    device, ranks = torch.device(device), ranks or Ranks.alone()
    if name == "auto":
        auto = settings.model_copy(update={"engine": "auto"})
        name = resolve_engine(auto, device.type, ranks.world_size)
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
    threads = threads or torch.get_num_threads()
    try:
        return create(rows, width, settings, seed, threads, device, ranks)
    except MemoryError as exc:
        local = shard_bounds(rows, ranks.world_size)[1]
        needed = footprint(name, local, width, settings.optimizer).total_bytes
        raise PlanError(
            f"{local:,} rows of width {width} with optimizer {settings.optimizer} need {needed:,} "
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
