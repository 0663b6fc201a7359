"""The loss of a click model: weighted binary cross-entropy over the global batch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy(
    logits: Tensor, label: Tensor, weight: Tensor | None = None, total: float | None = None
) -> Tensor:
    """Returns sum(w * l) / total, a scalar, for logits, labels and weights [B].

    `total` is the sum of the weights of the *global* batch, so that gradients of ranks add up to
    those of one process; None takes the sum of this batch. A batch that weighs nothing has loss 0.
    """
    if weight is None:
        losses = F.binary_cross_entropy_with_logits(logits, label, reduction="sum")
        return losses / (total or max(len(label), 1))
    losses = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
    if total is None:
        # float64: the sum of a large batch's weights must not lose the small ones.
        total = float(weight.sum(dtype=torch.float64))
    return losses / (total or 1.0)
