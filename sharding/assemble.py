"""From looked-up rows to the embedding, in torch operations that autograd and gradcheck follow.

L univalent lookups, B samples, c lookups of a list, n its values over the batch, d row width,
N = L * B + sum of c * n.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.batches import Part
from features.routing import Bag, RowBatch


def flat_rows(batch: RowBatch) -> NDArray[np.int64]:
    """Returns all rows of a batch, int64[N]: of lookup after lookup, then of bag after bag."""
    if not batch.bags:
        return batch.rows.reshape(-1)
    return np.concatenate([batch.rows.reshape(-1), *(bag.rows.reshape(-1) for bag in batch.bags)])


def assemble(vectors: Tensor, batch: RowBatch) -> Tensor:
    """Returns the embedding [B, W] made of the vectors [N, d] of `flat_rows`."""
    if batch.parts:
        return combine(vectors, batch.parts)
    width = vectors.shape[1]
    num_lookups, num_rows = batch.rows.shape
    univalent = vectors[: num_lookups * num_rows].view(num_lookups, num_rows, width)
    columns = batch.columns.tolist()
    if not batch.bags and columns == list(range(0, num_lookups * width, width)):
        return univalent.transpose(0, 1).reshape(num_rows, num_lookups * width)
    pieces = dict(zip(columns, univalent, strict=True))
    first = num_lookups * num_rows
    for bag in batch.bags:
        num_values = bag.rows.shape[1]
        for k in range(len(bag.rows)):
            values = vectors[first : first + num_values]
            pieces[bag.column + k * width] = pool(values, bag)
            first += num_values
    return torch.cat([pieces[column] for column in sorted(pieces)], dim=1)


def combine(vectors: Tensor, parts: Sequence[Part]) -> Tensor:
    """Returns the embedding [B, W] that readers make of the vectors [N, d] of all rows read."""
    width = vectors.shape[1]
    pieces = []
    first = 0
    for part in parts:
        count, num_values = part.shape
        rows = vectors[first : first + count * num_values].view(count, num_values, width)
        first += count * num_values
        extra = None if part.extra is None else torch.from_numpy(part.extra).to(vectors.device)
        combined: Tensor = part.reader.combine(rows, extra)
        if part.offsets is not None:
            combined = pool(combined, part)
        pieces.append(combined)
    return torch.cat(pieces, dim=1)


def pool(vectors: Tensor, bag: Bag | Part) -> Tensor:
    """Returns the sum or mean [B, d] of each sample's vectors [n, d]; zeros for an empty one."""
    assert bag.offsets is not None  # noqa: S101  what is pooled has offsets
    lengths = torch.from_numpy(np.diff(bag.offsets)).to(vectors.device)
    samples = torch.repeat_interleave(lengths)
    pooled = vectors.new_zeros(len(lengths), vectors.shape[1]).index_add(0, samples, vectors)
    if not bag.mean:
        return pooled
    # Times the reciprocal, as the kernels do: the same bits.
    return pooled * (1 / lengths.clamp(min=1).unsqueeze(1).to(vectors.dtype))
