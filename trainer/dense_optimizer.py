"""The optimizer of the tower: torch's own, with its state as named arrays for checkpoints."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.errors import SnapshotError
from sharding.ranks import Ranks
from trainer.settings import TrainSettings

# read(name): a saved array, or None where there is none of that name.
Reader = Callable[[str], NDArray[np.generic] | None]


class DenseOptimizer:
    """Steps a tower's parameters; its state is named such as "exp_avg.head.bias"."""

    def __init__(
        self, tower: nn.Module, settings: TrainSettings, ranks: Ranks | None = None
    ) -> None:
        self._ranks = ranks or Ranks.alone()
        self._named = dict(tower.named_parameters())
        self._parameters = list(self._named.values())
        self._clip_norm = settings.clip_norm
        self._optimizer = _build(self._parameters, settings)
        self.learning_rate = settings.learning_rate

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = value

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Sums the gradients over the ranks, clips their norm where one is set, and applies them.

        All gradients travel as one buffer in the order of the parameters, so that a run and its
        repetition add them in the same order.
        """
        if self._ranks.world_size > 1:
            self._sum_gradients()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm, foreach=True)
        self._optimizer.step()

    def _sum_gradients(self) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        summed = self._ranks.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(summed, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def state(self) -> dict[str, Tensor]:
        """Returns the state's tensors themselves, in the order of the parameters."""
        return {
            f"{key}.{name}": value
            for name, parameter in self._named.items()
            for key, value in _tensors(self._optimizer.state.get(parameter, {}))
        }

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave; SnapshotError where it is that of another tower."""
        states: dict[str, dict[str, Tensor]] = {}
        for full, value in saved.items():
            key, _, name = full.partition(".")
            parameter = self._named.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise SnapshotError(
                    f'the saved optimizer state "{full}" of shape {list(value.shape)} fits no '
                    "parameter of the tower",
                    "take the checkpoint of a run with the same [tower] and [train]",
                )
            states.setdefault(name, {})[key] = value
        for name, state in states.items():
            parameter = self._named[name]
            # Scalars (the step) stay where torch keeps them: beside the parameter when fused.
            self._optimizer.state[parameter] = {
                key: value.to(parameter.device).clone() for key, value in state.items()
            }


def _build(parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    # fused: one kernel for all parameters instead of several for each.
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay, foreach=True)
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)


def _tensors(state: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        if isinstance(value, Tensor):
            yield key, value
