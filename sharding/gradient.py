"""Output gradients: the checks each passes before it may train the table, and the node of the
backward pass that hands one to the table's optimizer."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

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


class OneStep(torch.autograd.Function):
    """A node that takes an optimizer step with the gradient of its output, once."""

    @staticmethod
    def start(look: Callable[[], Tensor], step: Callable[[Tensor], None]) -> Tensor:
        """Returns the new tensor that `look` gives; backward through it calls `step` with its
        gradient."""
        # Autograd runs a node only where an input wants a gradient: this one always does.
        hook = torch.zeros(1, requires_grad=True)
        return OneStep.apply(hook, look, step)  # type: ignore[no-untyped-call]

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        _hook: Tensor,
        look: Callable[[], Tensor],
        step: Callable[[Tensor], None],
    ) -> Tensor:
        """Looks up."""
        ctx.step = step  # type: ignore[attr-defined]
        return look()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[None, None, None]:
        """Takes the step."""
        refuse_second_order()
        step: Callable[[Tensor], None] | None = ctx.step  # type: ignore[attr-defined]
        if step is None:
            raise already_applied()
        step(gradient)
        ctx.step = None  # type: ignore[attr-defined]
        return None, None, None
