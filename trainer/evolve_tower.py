"""The tower of a model that carries on: weights copied by the columns they belong to.

What enters a tower is features side by side, and parameters have one place for each column, or for
each pair of features. A kept feature's places are copied; a new feature's are zero, so that the
first prediction is that of the old model; a dropped feature's are gone.

    MLP, DCN-V2   columns of the first layer; both axes of each cross layer, and its bias
    DLRM          columns of the bottom MLP, the projections, the pairs of the top MLP

A zero weight learns: its gradient is that of its output times its input, which is not zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.chain import Checkpoint
from trainer.dense_optimizer import DenseOptimizer
from trainer.settings import TowerSettings
from trainer.tower_size import common_width
from trainer.towers import Tower

# Of each place of an axis the place it had before, -1 where it is new; None leaves an axis alone.
Places = NDArray[np.int64]
Axes = tuple[Places | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What enters a tower, as (feature, columns) in order."""

    embedded: tuple[tuple[str, int], ...]
    dense: tuple[tuple[str, int], ...]

    @property
    def all(self) -> tuple[tuple[str, int], ...]:
        """Embeddings and dense columns side by side."""
        return (*self.embedded, *self.dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The saved parameter that one is made of, and the places of its axes there."""

    name: str
    axes: Axes


def why_fresh(
    old_settings: TowerSettings, settings: TowerSettings, old: Inputs, new: Inputs
) -> str | None:
    """Says why a tower cannot be carried over, None where it can."""
    before = old_settings.model_dump(exclude={"dropout"})
    for key, value in settings.model_dump(exclude={"dropout"}).items():
        if value != before[key]:
            return f"tower.{key} was {before[key]}, is {value}"
    if settings.kind != "dlrm":
        return None
    widths = [common_width(settings, [w for _, w in each.embedded]) for each in (old, new)]
    if widths[0] != widths[1]:
        return f"the common width of its features was {widths[0]}, is {widths[1]}"
    if bool(old.dense) != bool(new.dense):
        return "it has a bottom MLP only where there are dense columns"
    return None


def carry_tower(
    tower: Tower,
    optimizer: DenseOptimizer | None,
    checkpoint: Checkpoint,
    settings: TowerSettings,
    old: Inputs,
    new: Inputs,
) -> None:
    """Writes the parameters of a saved tower, and its optimizer's state, into an untrained one.

    `why_fresh` has said that they fit. Parameters without a source keep their initial values.
    """
    sources = _sources(dict(tower.named_parameters()), settings, old, new)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name in sources:
                parameter.copy_(_carried(checkpoint, "tower.", sources[name]))
    if optimizer is None:
        return
    state: dict[str, Tensor] = {}
    kinds = {
        full.split(".", 2)[1] for full in checkpoint.tensor_names if full.startswith("optimizer.")
    }
    for kind in sorted(kinds):
        for name, source in sources.items():
            if f"optimizer.{kind}.{source.name}" in checkpoint.tensor_names:
                state[f"{kind}.{name}"] = _carried(checkpoint, f"optimizer.{kind}.", source)
    optimizer.load_state(state)


def _carried(checkpoint: Checkpoint, prefix: str, source: _Source) -> Tensor:
    saved = np.array(checkpoint.tensor(prefix + source.name))
    # The optimizer's step is a number, whatever its parameter is.
    for axis, places in enumerate(source.axes if saved.ndim else ()):
        if places is not None:
            taken = np.take(saved, np.maximum(places, 0), axis=axis)
            is_new = (places < 0).reshape([-1 if a == axis else 1 for a in range(saved.ndim)])
            saved = np.where(is_new, saved.dtype.type(0), taken)
    return torch.from_numpy(saved)


def _sources(
    parameters: Mapping[str, Tensor], settings: TowerSettings, old: Inputs, new: Inputs
) -> dict[str, _Source]:
    """Returns where each parameter comes from; those of new features alone are left out."""
    sources = {
        name: _Source(name=name, axes=(None,) * parameter.ndim)
        for name, parameter in parameters.items()
    }
    if settings.kind == "dlrm":
        sources = {name: each for name, each in sources.items() if not _is_projection(name)}
        changed = _dlrm(settings, old, new) | _projections(old, new)
    else:
        changed = _side_by_side(settings, old, new)
    return sources | {name: each for name, each in changed.items() if name in parameters}


def _side_by_side(settings: TowerSettings, old: Inputs, new: Inputs) -> dict[str, _Source]:
    """MLP and DCN-V2: all inputs stand side by side."""
    columns = _columns(old.all, new.all)
    deep = np.arange(settings.hidden[-1]) if settings.hidden else columns
    changed: dict[str, Axes] = {
        "deep.layers.0.weight": (None, columns),
        "head.weight": (None, deep),
    }
    if settings.kind == "dcnv2":
        inner = columns if settings.low_rank is None else None
        for layer in range(settings.cross_layers):
            changed[f"cross.{layer}.thin.weight"] = (None, columns)
            changed[f"cross.{layer}.full.weight"] = (columns, inner)
            changed[f"cross.{layer}.full.bias"] = (columns,)
        if settings.structure == "parallel":
            joined = [columns, _behind(deep, sum(width for _, width in old.all))]
            changed["head.weight"] = (None, np.concatenate(joined))
    return {name: _Source(name=name, axes=axes) for name, axes in changed.items()}


def _dlrm(settings: TowerSettings, old: Inputs, new: Inputs) -> dict[str, _Source]:
    """DLRM: the columns of the bottom MLP, and the pairs that enter the top one."""
    places = {name: number + 1 for number, (name, _) in enumerate(old.embedded)}
    vectors = np.array([0, *(places.get(name, -1) for name, _ in new.embedded)])
    one, other = np.tril_indices(len(vectors), k=-1)
    larger = np.maximum(vectors[one], vectors[other])
    smaller = np.minimum(vectors[one], vectors[other])
    top = np.where(smaller < 0, -1, larger * (larger - 1) // 2 + smaller)
    if new.dense:
        common = common_width(settings, [width for _, width in new.embedded])
        top = np.concatenate([np.arange(common), _behind(top, common)])
    first = "deep.layers.0.weight" if settings.hidden else "head.weight"
    bottom = "bottom.layers.0.weight"
    return {
        first: _Source(name=first, axes=(None, top)),
        bottom: _Source(name=bottom, axes=(None, _columns(old.dense, new.dense))),
    }


def _projections(old: Inputs, new: Inputs) -> dict[str, _Source]:
    before = {name: number for number, (name, _) in enumerate(old.embedded)}
    return {
        f"project.{number}.weight": _Source(
            name=f"project.{before[name]}.weight", axes=(None, None)
        )
        for number, (name, _) in enumerate(new.embedded)
        if name in before
    }


def _is_projection(name: str) -> bool:
    return name.startswith("project.")


def _columns(old: Sequence[tuple[str, int]], new: Sequence[tuple[str, int]]) -> Places:
    """Returns of each column of the new inputs the one it had, -1 where its feature is new."""
    first, column = {}, 0
    for name, width in old:
        first[name] = column
        column += width
    parts = [
        np.arange(width) + first[name] if name in first else np.full(width, -1)
        for name, width in new
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _behind(places: Places, count: int) -> Places:
    """Returns places behind `count` others; new ones stay new."""
    return np.where(places < 0, -1, places + count)
