"""Learning rates over a run: a warm-up, then a decay; one factor for tower and table."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The factor both learning rates are multiplied by, a pure function of the step."""

    warmup_steps: int
    decay: Literal["none", "linear", "cosine"]
    final: float
    total_steps: int

    def factor(self, step: int) -> float:
        """Returns the factor for the step with this number, counted from 0.

        It rises in equal parts over the warm-up, is 1 at the warm-up's last step, and with a decay
        is `final` at step `total_steps - 1`.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "none":
            return 1.0
        # The decay starts at the warm-up's last step, or at step 0 where there is no warm-up.
        start = max(self.warmup_steps - 1, 0)
        span = self.total_steps - 1 - start
        done = min((step - start) / span, 1.0) if span > 0 else 0.0
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * left
