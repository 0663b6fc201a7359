"""In which directions a trained model reads the row of each lookup: gradients of the logit.

For every row of the data, g is the gradient of the logit by the columns of one lookup; G is the
mean of g g^T. Unlike the weights of a layer it says what reaches the output, in any tower.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from features.parquet import Dataset
from trainer.evaluate import TrainedModel
from trainer.inspection_angles import Angles, Key, angles_between, places
from trainer.inspection_worth import spread_batches, tower_inputs

MOST_ROWS = 50_000


def gradient_angles(
    trained: TrainedModel, dataset: Dataset, most_rows: int = MOST_ROWS
) -> Angles | str:
    """Returns the angles between the gradients of the lookups over rows spread over the data, or
    why there are none."""
    found = places(trained.model.layout)
    if isinstance(found, str):
        return found
    squares: dict[Key, NDArray[np.float64]] = {}
    rows = 0
    for batch in spread_batches(trained, dataset, most_rows):
        with torch.no_grad():
            embeddings, dense = tower_inputs(trained.model, batch)
        embeddings = embeddings.detach().requires_grad_()
        logits = trained.model.tower(embeddings, dense)
        (gradient,) = torch.autograd.grad(logits.sum(), embeddings)
        directions = gradient.double().cpu().numpy()
        for key, place in found.items():
            own = directions[:, place.column : place.column + place.width]
            squares[key] = squares.get(key, 0) + own.T @ own
        rows += batch.num_rows
    if not rows:
        return "There are no rows."
    return angles_between(found, squares, f"gradients of the logit over {rows:,} rows")
