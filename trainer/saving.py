"""What a checkpoint holds: the table and the tower with their optimizers, and where the run stood.

table.NAME             rows and optimizer state of the table engine
tower.PARAMETER        parameters of the tower
optimizer.KEY.PARAM    state of the tower's optimizer
the layout's own       vocabularies of exact features
content                run state, layout, engine scalars, digests of job, data and profile
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import SnapshotError, TrainingError
from features.routing import Layout
from storage import chain
from storage.bundle import Verify
from storage.chain import Checkpoint
from storage.parts import Sharded
from storage.places import Place
from trainer.dense_optimizer import DenseOptimizer
from trainer.latest import checkpoint_places, latest_checkpoint
from trainer.model import Model
from trainer.state import RunState


def tensors_of(
    model: Model, optimizer: DenseOptimizer
) -> tuple[dict[str, Sharded], dict[str, NDArray[Any]]]:
    """Returns this rank's rows of the table, and what every rank has; on a CPU views of the memory.

    Raises TrainingError where the tower is no longer finite: a gradient overflowed since the last
    look at the loss, and the checkpoint before it must stay the newest.
    """
    tower = {name: value.detach() for name, value in model.tower.named_parameters()}
    for name, value in tower.items():
        if not torch.isfinite(value).all():
            raise TrainingError(
                f'the tower\'s parameter "{name}" is no longer finite; no checkpoint is written of '
                "it, and the last one is kept",
                "lower train.learning_rate, or set train.clip_norm",
            )
    engine = model.engine
    sharded = {
        f"table.{name}": Sharded(array=array, first_row=engine.first_row, num_rows=engine.rows)
        for name, array in engine.state().items()
    }
    return sharded, {
        **{f"tower.{name}": _array(value) for name, value in tower.items()},
        **{f"optimizer.{name}": _array(value) for name, value in optimizer.state().items()},
        **model.layout.vocabularies(),
    }


def content_of(model: Model, state: RunState, digests: Mapping[str, str]) -> dict[str, Any]:
    """Returns the content object of a checkpoint's manifest."""
    return {
        "state": state.to_json(),
        "layout": model.layout.to_json(),
        "table": model.engine.scalars(),
        "digests": dict(digests),
    }


def open_checkpoint(directory: Place, which: str | int, verify: Verify = True) -> Checkpoint:
    """Opens a checkpoint of a run for reading: "best", "last", or that of a step.

    Takes no part in the run: it may be training meanwhile. Raises SnapshotError where there is no
    such checkpoint.
    """
    # Where the last one only tells which is best, its contents need not be verified.
    last = latest_checkpoint(directory, verify=verify if which == "last" else False)
    if last is None:
        raise SnapshotError(f'"{directory}" holds no checkpoint', "train the run first")
    if which == "last":
        return last
    with last:
        state = state_in(last)
    best = state.step if state.best_step is None else state.best_step
    step = best if which == "best" else which
    name = f"step-{step:010d}"
    # A step that was saved twice (before and after its validation) has the same model twice.
    places = checkpoint_places(directory)
    for found in places:
        if found.name == name or found.name.startswith(f"{name}-"):
            return chain.open_checkpoint(found, verify)
    held = ", ".join(place.name for place in places)
    raise SnapshotError(f'"{directory}" holds no checkpoint of step {step}', f"it holds: {held}")


def check_digests(checkpoint: Checkpoint, digests: Mapping[str, str]) -> None:
    """Raises SnapshotError naming what a checkpoint was trained with and the run no longer has."""
    saved = _object(checkpoint, "digests")
    for name, digest in digests.items():
        if saved.get(name) != digest:
            raise SnapshotError(
                f'"{checkpoint.place}" was trained with another {name} (sha256 '
                f"{str(saved.get(name))[:12]}..., the run's is {digest[:12]}...)",
                "put the run's files back as they were, or start again in a new run.dir",
            )


def layout_in(checkpoint: Checkpoint) -> Layout:
    """Returns the layout that a checkpoint was trained with."""
    tree = _object(checkpoint, "layout")
    names = [name for name in checkpoint.tensor_names if not name.startswith(_PREFIXES)]
    return Layout.from_json(tree, {name: checkpoint.tensor(name) for name in names})


def state_in(checkpoint: Checkpoint) -> RunState:
    """Returns where the run stood."""
    return RunState.from_json(checkpoint.content.get("state"))


def restore(model: Model, checkpoint: Checkpoint, optimizer: DenseOptimizer | None) -> None:
    """Fills a model of the same layout, and its optimizers, from a checkpoint.

    Without `optimizer` only what predictions need is read: the engine may then have any optimizer.
    Raises SnapshotError where shapes differ.
    """

    def read(name: str, first: int, end: int, out: NDArray[np.float32]) -> None:
        checkpoint.read_rows(f"table.{name}", first, end, out)

    scalars = _object(checkpoint, "table")
    if optimizer is None:
        scalars = {**scalars, "optimizer": model.engine.optimizer}
    model.engine.load_state(read, scalars)
    parameters = dict(model.tower.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            saved = _tensor(checkpoint, f"tower.{name}")
            if saved.shape != parameter.shape:
                raise SnapshotError(
                    f'"{checkpoint.place}": tower parameter "{name}" has shape '
                    f"{list(saved.shape)}, the job's has {list(parameter.shape)}",
                    "take a checkpoint of this job",
                )
            parameter.copy_(saved)
    if optimizer is not None:
        prefix = "optimizer."
        names = [name for name in checkpoint.tensor_names if name.startswith(prefix)]
        optimizer.load_state(
            {name.removeprefix(prefix): _tensor(checkpoint, name) for name in names}
        )


_PREFIXES = ("table.", "tower.", "optimizer.")


def _array(value: Tensor) -> NDArray[Any]:
    return value.cpu().numpy()


def _tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    # A copy: torch has no read-only tensors, and the mapping is one.
    return torch.from_numpy(np.array(checkpoint.tensor(name)))


def _object(checkpoint: Checkpoint, key: str) -> dict[str, Any]:
    tree = checkpoint.content.get(key)
    if not isinstance(tree, dict):
        raise SnapshotError(
            f'"{checkpoint.place}" is no checkpoint of a training run: its manifest has no "{key}"',
            "give a checkpoint that `muxtable train` wrote",
        )
    return tree
