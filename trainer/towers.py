"""The dense networks on top of the embeddings: DCN-V2, DLRM and MLP, each ending in one logit.

Shapes: B batch, W width of all embeddings together, D dense columns, X = W + D, p common width.

    DCN-V2   x0 = [embeddings ; dense],  x_{l+1} = x0 * (A x_l + b) + x_l      (Wang et al. 2021)
             stacked: the MLP reads the last x; parallel: it reads x0 and both ends are concatenated
    DLRM     dot products of all pairs of feature vectors and the bottom MLP's output, beside that
             output, into the top MLP (Naumov et al. 2019)
    MLP      x0 into the MLP

Matrices start Xavier-normal and biases zero, drawn from a generator of the tower's own, so that the
start is a function of the seed and nothing else. No batch normalisation: it costs accuracy here.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from features.errors import ConfigError
from native.order import derive
from trainer.settings import TowerSettings
from trainer.tower_size import common_width


class Tower(nn.Module):
    """A network from embeddings [B, W] and dense columns [B, D] to logits [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise()

    def seed_dropout(self, seed: int, step: int, runs: Sequence[tuple[int, int]]) -> None:
        """Makes the dropout masks of the next forward pass a function of seed, step and stream.

        `runs` are (stream, rows) of the batch's rows in their order: a row gets its mask whichever
        rank it is on.
        """
        self.noise.begin([(derive("dropout", seed, step, stream), rows) for stream, rows in runs])


def build_tower(settings: TowerSettings, widths: Sequence[int], num_dense: int, seed: int) -> Tower:
    """Returns the tower for features of these embedding widths, in layout order, initialised by
    `seed`; raises ConfigError where nothing enters it."""
    if sum(widths) + num_dense == 0:
        raise ConfigError(
            "the tower has no input: no embedded feature and no dense column",
            "list columns under [features]",
        )
    weights = _Weights(torch.Generator().manual_seed(derive("tower", seed)))
    if settings.kind == "mlp":
        return MlpTower(settings, sum(widths) + num_dense, weights)
    if settings.kind == "dlrm":
        return DlrmTower(settings, widths, num_dense, weights)
    return CrossTower(settings, sum(widths) + num_dense, weights)


class MlpTower(Tower):
    """Hidden layers over the concatenated input."""

    def __init__(self, settings: TowerSettings, width: int, weights: "_Weights") -> None:
        super().__init__()
        self.deep = Hidden(width, settings.hidden, settings.dropout, self.noise, weights)
        self.head = weights.linear(self.deep.width, 1)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """Returns logits [B]."""
        logits: Tensor = self.head(self.deep(_concatenate(embeddings, dense)))
        return logits.squeeze(1)


class CrossTower(Tower):
    """DCN-V2: cross layers, then (stacked) or beside them (parallel) hidden layers."""

    def __init__(self, settings: TowerSettings, width: int, weights: "_Weights") -> None:
        super().__init__()
        self.is_parallel = settings.structure == "parallel"
        self.cross = nn.ModuleList(
            Cross(width, settings.low_rank, weights) for _ in range(settings.cross_layers)
        )
        self.deep = Hidden(width, settings.hidden, settings.dropout, self.noise, weights)
        joined = width + self.deep.width if self.is_parallel else self.deep.width
        self.head = weights.linear(joined, 1)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """Returns logits [B]."""
        start = _concatenate(embeddings, dense)
        crossed = start
        for layer in self.cross:
            crossed = layer(start, crossed)
        if self.is_parallel:
            last = torch.cat([crossed, self.deep(start)], dim=1)
        else:
            last = self.deep(crossed)
        logits: Tensor = self.head(last)
        return logits.squeeze(1)


class DlrmTower(Tower):
    """Dot products between features, the bottom MLP's output among them, into the top MLP.

    Without dense columns a learned vector stands for the bottom MLP's output: its products with the
    features are their linear terms, which the pairs alone cannot express.
    """

    pairs: Tensor

    def __init__(
        self, settings: TowerSettings, widths: Sequence[int], num_dense: int, weights: "_Weights"
    ) -> None:
        super().__init__()
        common = common_width(settings, widths)
        self.bottom: nn.Module | None = None
        if num_dense:
            bottom = Hidden(num_dense, [*settings.bottom, common], 0.0, self.noise, weights)
            self.bottom = bottom
        else:
            self.constant = weights.matrix(1, common)
        self.widths = list(widths)
        self.project = nn.ModuleList(
            nn.Identity() if width == common else weights.linear(width, common, bias=False)
            for width in widths
        )
        num_vectors = len(widths) + 1
        pairs = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        # A constant of the shape, not a state: it is not part of a checkpoint.
        self.register_buffer("pairs", pairs[0] * num_vectors + pairs[1], persistent=False)
        inputs = pairs.shape[1] + (common if num_dense else 0)
        self.deep = Hidden(inputs, settings.hidden, settings.dropout, self.noise, weights)
        self.head = weights.linear(self.deep.width, 1)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """Returns logits [B]."""
        if self.bottom is None:
            first = self.constant.expand(len(embeddings), -1)
        else:
            first = self.bottom(dense)
        parts = torch.split(embeddings, self.widths, dim=1)
        vectors = [project(part) for project, part in zip(self.project, parts, strict=True)]
        stacked = torch.stack([first, *vectors], dim=1)
        dots = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)[:, self.pairs]
        logits: Tensor = self.head(
            self.deep(dots if self.bottom is None else torch.cat([first, dots], dim=1))
        )
        return logits.squeeze(1)


class Cross(nn.Module):
    """One cross layer: start * (A x + b) + x, with A of full rank or the product of two thin
    matrices."""

    def __init__(self, width: int, rank: int | None, weights: "_Weights") -> None:
        super().__init__()
        self.thin = None if rank is None else weights.linear(width, rank, bias=False)
        self.full = weights.linear(width if rank is None else rank, width)

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """Returns the next x [B, X]."""
        return torch.addcmul(x, start, self.full(x if self.thin is None else self.thin(x)))


class Hidden(nn.Module):
    """Linear layers with ReLU, and dropout after each."""

    def __init__(
        self,
        width: int,
        sizes: Sequence[int],
        dropout: float,
        noise: "Noise",
        weights: "_Weights",
    ) -> None:
        super().__init__()
        self.width = sizes[-1] if sizes else width
        self.layers = nn.ModuleList(weights.linear(*pair) for pair in pairwise([width, *sizes]))
        self.dropout = dropout
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, width of the last layer]."""
        for layer in self.layers:
            x = torch.relu(layer(x))
            if self.training and self.dropout:
                x = x * self.noise.mask(x, self.dropout)
        return x


class Noise:
    """Dropout masks from generators of their own, one for each run of rows: nobody else's draws
    move them."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        self._generators: list[torch.Generator] = []
        self._is_fresh = False

    def begin(self, runs: Sequence[tuple[int, int]]) -> None:
        """Starts the masks of a batch: (seed, rows) of each run of its rows."""
        self._runs = list(runs)
        self._is_fresh = True

    def mask(self, x: Tensor, dropout: float) -> Tensor:
        """Returns zeros with probability `dropout`, else 1 / (1 - dropout), in the shape of x,
        whose rows are those of the runs."""
        keep = 1 - dropout
        mask = torch.empty_like(x)
        parts = torch.split(mask, [rows for _, rows in self._runs])
        for part, generator in zip(parts, self._seeded(x.device), strict=True):
            part.bernoulli_(keep, generator=generator)
        return mask.div_(keep)

    def _seeded(self, device: torch.device) -> list[torch.Generator]:
        generators = self._generators
        if generators and generators[0].device != device:
            generators.clear()
        while len(generators) < len(self._runs):
            generators.append(torch.Generator(device))
        if self._is_fresh:
            for generator, (seed, _) in zip(generators, self._runs, strict=False):
                generator.manual_seed(seed)
            self._is_fresh = False
        return generators[: len(self._runs)]


class _Weights:
    """Makes layers whose values come from one generator, in the order they are made."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def linear(self, width: int, out: int, bias: bool = True) -> nn.Linear:
        # Made on "meta" first: nn.Linear's own start would draw from torch's global generator.
        layer = nn.Linear(width, out, bias=bias, device="meta").to_empty(device="cpu")
        nn.init.xavier_normal_(layer.weight, generator=self._generator)
        if bias:
            nn.init.zeros_(layer.bias)
        return layer

    def matrix(self, rows: int, columns: int) -> nn.Parameter:
        scale = math.sqrt(2 / (rows + columns))
        return nn.Parameter(torch.empty(rows, columns).normal_(0, scale, generator=self._generator))


def _concatenate(embeddings: Tensor, dense: Tensor) -> Tensor:
    return torch.cat([embeddings, dense], dim=1) if dense.shape[1] else embeddings
