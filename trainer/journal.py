"""metrics.jsonl, one JSON object a line, and the same numbers as TensorBoard events.

    {"kind": "train", "step", "epoch", "samples", "loss", "learning_rate", "table_learning_rate",
     "samples_per_s", "elapsed_s"}
    {"kind": "valid", "step", "epoch", "samples", "auc", "log_loss", "normalized_entropy",
     "calibration", "is_best", "elapsed_s"}

`loss` is the mean since the line before. The fields in WALL_CLOCK differ from run to run; all else
is the same in every run of a job, however often it was stopped: on resume the file is cut back to
the length it had at the checkpoint. TensorBoard's files cannot be cut; there a purge step tells the
reader to forget what came after.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from features.errors import ConfigError, SnapshotError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WALL_CLOCK = ("elapsed_s", "samples_per_s")

# Fields that say where a line stands rather than what was measured: no curves of TensorBoard.
_NO_CURVE = ("kind", "step", "epoch", "samples", "is_best", "elapsed_s")


class Journal:
    """Appends to a run's metrics.jsonl, from `offset` on, and to its TensorBoard events."""

    def __init__(self, path: Path, offset: int, step: int, tensorboard: Path | None) -> None:
        """Cuts the file back to `offset`, its length at the checkpoint of `step`.

        Raises SnapshotError where the file is shorter, ConfigError where TensorBoard is asked for
        and missing.
        """
        self._writer = None if tensorboard is None else _open_tensorboard(tensorboard, step)
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise SnapshotError(
                f'"{path}" has {size:,} bytes, {offset:,} when the checkpoint of step {step} was '
                "taken",
                "put the file back, or start again in a new run.dir",
            )
        self._file = path.open("ab")
        self._file.truncate(offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        """Appends a line; numbers that are not finite become null."""
        record = {"kind": kind, "step": step, **fields}
        line = json.dumps({name: _finite(value) for name, value in record.items()})
        self._file.write(line.encode() + b"\n")
        # A line at a time, so that a watcher sees it at once.
        self._file.flush()
        if self._writer is None:
            return
        for name, value in record.items():
            if name not in _NO_CURVE and _finite(value) is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Brings all lines to the disk and returns the file's length: a checkpoint's offset."""
        os.fsync(self._file.fileno())
        if self._writer is not None:
            self._writer.flush()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class NoJournal:
    """The journal of the ranks that write none."""

    def write(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        """Ignored."""

    def sync(self) -> int:
        """Nothing was written."""
        return 0


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl; an unfinished last one of a killed run is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _open_tensorboard(directory: Path, step: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise ConfigError(
            "run.tensorboard is true, and the package tensorboard is not installed",
            "install it (pip install tensorboard) or set run.tensorboard = false",
        ) from exc
    return SummaryWriter(str(directory), purge_step=step + 1 if step else None)
