"""What the first layers of a tower read of each lookup's row: A [h, w], and A^T A.

mlp     the first hidden layer; without one the head, which then is logistic regression
dcnv2   the first cross matrix, and below it whatever else reads the input or the last cross
        layer, which carries the input on: the first hidden layer, and the head where it does
dlrm    the projection of the feature; lookups that enter as they are have none
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from features.routing import Layout
from trainer.inspection_angles import Angles, angles_between, places

Parameters = Mapping[str, NDArray[np.float32]]
"""The tower's parameters by name."""


def layer_angles(layout: Layout, parameters: Parameters) -> Angles | str:
    """Returns the angles between the columns of the first layers, or why there are none."""
    found = places(layout)
    if isinstance(found, str):
        return found
    if any(name.startswith(("bottom.", "constant")) for name in parameters):
        layers = _projections(layout, parameters)
        if not layers:
            return "The tower takes all vectors as they are: no layer reads them."
    else:
        layers = _input_layers(layout, parameters)
    columns = np.concatenate(list(layers.values())).astype(np.float64)
    blocks = {
        key: columns[:, place.column : place.column + place.width] for key, place in found.items()
    }
    squares = {key: block.T @ block for key, block in blocks.items() if block.any()}
    return angles_between(found, squares, f"columns of {', '.join(layers)}")


def _projections(layout: Layout, parameters: Parameters) -> dict[str, NDArray[np.float32]]:
    """Returns the projections of a DLRM, each over the columns of the whole embedding."""
    layers = {}
    for number, route in enumerate(layout.routes):
        name = f"project.{number}.weight"
        if name in parameters:
            padded = np.zeros((len(parameters[name]), layout.out_width), np.float32)
            padded[:, route.column : route.column + route.width_total] = parameters[name]
            layers[name] = padded
    return layers


def _input_layers(layout: Layout, parameters: Parameters) -> dict[str, NDArray[np.float32]]:
    """Returns the matrices of an MLP or a DCN-V2 whose first columns are those of the embedding."""
    columns = layout.out_width
    layers: dict[str, NDArray[np.float32]] = {}
    if "cross.0.thin.weight" in parameters:
        product = parameters["cross.0.full.weight"] @ parameters["cross.0.thin.weight"]
        layers["cross.0.full.weight x cross.0.thin.weight"] = product
    elif "cross.0.full.weight" in parameters:
        layers["cross.0.full.weight"] = parameters["cross.0.full.weight"]
    hidden = [name for name in parameters if name.startswith("deep.layers.") and "weight" in name]
    if hidden:
        layers["deep.layers.0.weight"] = parameters["deep.layers.0.weight"]
    head = parameters["head.weight"]
    # The head reads hidden layers, behind the cross layers where they stand beside them.
    behind = len(parameters[f"deep.layers.{len(hidden) - 1}.weight"]) if hidden else 0
    if head.shape[1] > behind:
        layers["head.weight"] = head
    return {name: matrix[:, :columns] for name, matrix in layers.items()}
