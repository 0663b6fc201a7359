"""The checks every output gradient passes before it may train the table."""

import torch
from torch import Tensor

from features.errors import ConfigError, TrainingError


def check_gradient(gradient: Tensor, num_rows: int, out_width: int) -> Tensor:
    """Returns the gradient as a contiguous float32[B, W]; ConfigError if it is none."""
    if gradient.dtype != torch.float32 or gradient.layout != torch.strided:
        raise ConfigError(
            f"the gradient of the table's vectors is {gradient.dtype} ({gradient.layout}); "
            "the table trains on dense float32",
            "hand over gradient.float(), or leave the vectors float32 (autocast casts them itself)",
        )
    if gradient.shape != (num_rows, out_width):
        raise ConfigError(
            f"the gradient of the table's vectors has shape {list(gradient.shape)}, "
            f"the vectors have [{num_rows}, {out_width}]",
            "hand over the gradient of this very batch",
        )
    return gradient.contiguous()


def refuse_second_order() -> None:
    """Raises TrainingError inside a backward pass that builds a graph of itself."""
    if torch.is_grad_enabled():
        raise TrainingError(
            "a backward pass with create_graph=True reached the table, which trains inside it",
            "use UnifiedEmbedding(optimizer=None) for gradients of gradients",
        )


def already_applied() -> TrainingError:
    """The error of a second backward pass through one lookup."""
    return TrainingError(
        "a second backward pass went through one lookup of the table, whose optimizer step was "
        "already applied by the first",
        "sum the losses and call backward once, or look the batch up again",
    )
