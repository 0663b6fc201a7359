"""Where a run stands: all of it that is no tensor, and what a checkpoint's content holds."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from features.errors import SnapshotError
from trainer.metrics import Metrics
from trainer.settings import TrainSettings

# 1 where more is better, -1 where less is.
_SIGNS = {"auc": 1, "log_loss": -1, "normalized_entropy": -1}


@dataclass(slots=True, kw_only=True)
class RunState:
    """Counters, running sums and the best so far; with the tensors it continues a run exactly."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    epoch_step: int = 0
    """Steps taken in this epoch."""
    samples: int = 0
    loss_sum: float = 0.0
    """Weighted losses since the last line of metrics.jsonl."""
    loss_weight: float = 0.0
    validated_step: int = 0
    """Step of the last validation; 0 before the first."""
    best_step: int | None = None
    best_metrics: Metrics | None = None
    num_stale: int = 0
    """Validations since the best one."""
    is_stopped_early: bool = False
    journal_offset: int = 0
    elapsed_s: float = 0.0
    """Seconds of training and validation, over all starts."""

    def validated(self, metrics: Metrics, settings: TrainSettings) -> bool:
        """Takes in a validation at the current step; returns whether it is the best so far.

        A metric that does not exist (one class only) is neither better nor worse than another.
        """
        self.validated_step = self.step
        value = _score(metrics, settings)
        if value is None:
            return False
        best = None if self.best_metrics is None else _score(self.best_metrics, settings)
        if best is None or value > best:
            self.best_step, self.best_metrics, self.num_stale = self.step, metrics, 0
            return True
        self.num_stale += 1
        self.is_stopped_early = settings.patience is not None and (
            self.num_stale >= settings.patience
        )
        return False

    def to_json(self) -> dict[str, Any]:
        """Returns the state as plain JSON values; numbers come back bit for bit."""
        tree = asdict(self)
        tree["best_metrics"] = None if self.best_metrics is None else self.best_metrics.to_json()
        return tree

    @classmethod
    def from_json(cls, tree: Any) -> "RunState":
        """Returns the state that `to_json` wrote; SnapshotError where it is anything else."""
        try:
            if set(tree) != {field.name for field in fields(cls)}:
                raise ValueError("other fields")
            best = tree["best_metrics"]
            return cls(
                **{**tree, "best_metrics": None if best is None else Metrics.from_json(best)}
            )
        except (TypeError, ValueError, KeyError) as exc:
            raise SnapshotError(
                f"the checkpoint's run state is not one of this version ({exc})",
                "go on with the muxtable that wrote it, or start again in a new run.dir",
            ) from exc


def _score(metrics: Metrics, settings: TrainSettings) -> float | None:
    value: float | None = getattr(metrics, settings.stop_metric)
    return None if value is None else _SIGNS[settings.stop_metric] * value
