"""UnifiedEmbedding: one table for all categorical features, as an ordinary module.

B samples, W columns of the embedding (all features together), T longest sequence of a batch.

    embed = UnifiedEmbedding({"user": 2, "item": 2, "city": 1}, budget="64 MiB")
    vectors = embed({"user": users, "item": items, "city": cities})       # float32[B, W]

Two ways to train the rows:

fused (an optimizer is named, the default)
    The optimizer runs inside `backward`, on the touched rows only; `parameters()` is empty, so the
    loop's own optimizer gets the rest of the model. Each forward pass that takes part in a backward
    pass is one step: see `sharding.table` for what follows. In `eval()` nothing is trained.

parameter (optimizer=None)
    The rows are one `nn.Parameter` called `weight`. `sparse=True` gives sparse gradients for
    torch.optim.SGD, Adagrad and SparseAdam; `sparse=False` dense ones for any optimizer.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.errors import ConfigError
from features.routing import Layout, RowBatch
from features.statistics import FeatureStatistics
from native import memory
from native.order import derive
from sharding.assemble import assemble, combine, flat_rows
from sharding.table import TableEngine, create_engine
from trainer.embedding_arguments import Features, feature_set_of, layout_of, table_settings
from trainer.embedding_state import EmbeddingState, load_table
from trainer.values import ValueReader


class Steps(NamedTuple):
    """The vectors of a sequence, one for each of its values, oldest first."""

    vectors: Tensor
    """[B, T, columns of the feature], zeros behind a sample's last value."""
    mask: Tensor
    """bool[B, T], true where there is a value."""


class UnifiedEmbedding(nn.Module):
    """One hashed table for all features: a dict of ids in, embeddings [B, W] out.

    features       {name: lookups}, a list of names (with `lookups` each), or a FeatureSet, whose
                   columns are then the keys of the dict; its dense columns are the caller's
    budget, rows   what the table may cost: bytes ("64 MiB", or a number) or rows; give one
    width          floats of a row; a feature's vector is lookups x width
    lists          {name: "mean" or "sum"}: features whose samples are lists, pooled
    sequences      {name: max_length}: features whose samples are histories; the newest are kept
    method         how values become embeddings, as `table.method` of a job file; qr, tt and exact
                   number all values and need `statistics`
    multiplexed    False gives each feature its own rows, shared out by `cardinalities`
    statistics     a profile, where a FeatureSet has exact or bucketized features
    hash_seed      which hash functions; seed: which initial values, uniform in +-init_scale
    optimizer      "rowwise_adagrad", "adagrad", "adam", "sgd": fused; None: an nn.Parameter
    sparse, dtype  of the parameter's gradient and of the parameter

    Raises ConfigError, PlanError or DataError saying which argument is wrong.
    """

    def __init__(
        self,
        features: Features,
        *,
        budget: str | int | None = None,
        rows: int | None = None,
        width: int = 16,
        lookups: int = 2,
        lists: Mapping[str, str] | None = None,
        sequences: Mapping[str, int] | None = None,
        method: str = "unified",
        multiplexed: bool = True,
        cardinalities: Mapping[str, int] | None = None,
        statistics: FeatureStatistics | None = None,
        exact_below: int = 64,
        hash_seed: int = 0,
        seed: int = 0,
        init_scale: float = 0.05,
        optimizer: Literal["rowwise_adagrad", "adagrad", "adam", "sgd"] | None = "rowwise_adagrad",
        learning_rate: float = 0.05,
        eps: float = 1e-8,
        beta1: float = 0.9,
        beta2: float = 0.999,
        sparse: bool = False,
        dtype: torch.dtype = torch.float32,
        engine: str = "auto",
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if optimizer is not None and (sparse or dtype != torch.float32):
            raise ConfigError(
                f"UnifiedEmbedding: sparse={sparse} and dtype={dtype} belong to a parameter, but "
                f'optimizer="{optimizer}" trains a float32 table without one',
                "give optimizer=None, or remove them",
            )
        if not dtype.is_floating_point:
            raise ConfigError(f"UnifiedEmbedding: dtype is {dtype}", "give a floating-point dtype")
        table = table_settings(
            {
                "budget": f"{budget} B" if isinstance(budget, int) else budget,
                "rows": rows,
                "width": width,
                "lookups": lookups,
                "method": method,
                "multiplexed": multiplexed,
                "exact_below": exact_below,
                "hash_seed": hash_seed,
                "init_scale": init_scale,
                "optimizer": optimizer or "sgd",
                "learning_rate": learning_rate,
                "eps": eps,
                "beta1": beta1,
                "beta2": beta2,
            }
        )
        feature_set = feature_set_of(features, lists or {}, sequences or {}, table)
        self.layout: Layout = layout_of(feature_set, table, statistics, cardinalities)
        """Which rows each feature's values own."""
        self.sparse = sparse
        self._reader = ValueReader(self.layout)
        self._threads = threads or torch.get_num_threads()
        self.engine: TableEngine | None = None
        """The trained table in the fused mode, None in the parameter mode."""
        if optimizer is not None:
            self.engine = create_engine(
                engine, self.layout.rows, self.layout.width, table, seed, self._threads, device
            )
        else:
            start = torch.empty(self.layout.rows, self.layout.width)
            key = derive("init", seed)
            memory.fill_uniform(start.numpy(), key, init_scale, threads=self._threads)
            self.weight = nn.Parameter(start.to(device, dtype))

    @property
    def out_width(self) -> int:
        """W: columns of the embedding of all features."""
        return self.layout.out_width

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each feature, in the order of the embedding."""
        return {route.name: route.width_total for route in self.layout.routes}

    @property
    def learning_rate(self) -> float:
        """Learning rate of the fused optimizer; what is set counts from the next forward pass
        on."""
        return self._fused("learning_rate").learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._fused("learning_rate").learning_rate = value

    def forward(self, ids: Mapping[str, Any]) -> Tensor:
        """Returns the embedding [B, W] of a dict of ids; `trainer.values` says what they may be.

        Raises DataError naming the feature: missing, unknown, floats, another length, integers
        where there were strings.
        """
        return self._lookup(self.layout.route(self._reader.batch(ids), self._threads))

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Returns each feature's columns of an embedding [..., W], as views."""
        widths = self.widths
        return dict(zip(widths, torch.split(vectors, list(widths.values()), dim=-1), strict=True))

    def by_feature(self, ids: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns the embedding of a dict of ids, feature by feature."""
        return self.split(self(ids))

    def steps(self, name: str, ids: Any) -> Steps:
        """Returns the vectors of every value of a list or sequence feature, unpooled.

        `ids` are the feature's lists. A null list is one step, the null row's; null elements are
        left out. In the fused mode this is a lookup, and so an optimizer step, of its own.
        """
        names = [route.name for route in self.layout.bags]
        if name not in names:
            raise ConfigError(
                f'UnifiedEmbedding.steps: "{name}" is not a list or sequence feature',
                f"these are: {', '.join(names) or 'none'}",
            )
        route = self.layout[name]
        column = self._reader.column(route.feature, ids)
        offsets = column.offsets
        assert offsets is not None  # noqa: S101 - a bag's keys have offsets
        vectors = self._lookup(self.layout.values_of(name, column, self._threads))
        lengths = np.diff(offsets)
        longest = int(lengths.max(initial=0))
        mask = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(vectors.device)
        places = mask.flatten().nonzero().squeeze(1)
        padded = vectors.new_zeros(mask.numel(), route.width_total).index_copy(0, places, vectors)
        return Steps(padded.view(len(lengths), longest, route.width_total), mask)

    def extra_repr(self) -> str:
        """Says rows, width, features and what trains them."""
        mode = f"sparse={self.sparse}" if self.engine is None else self.engine.optimizer
        features = ", ".join(f"{name}: {width}" for name, width in self.widths.items())
        return f"{self.layout.rows} rows x {self.layout.width}, {mode}, {features}"

    def get_extra_state(self) -> Tensor:
        """Returns what `state_dict` holds beside the rows, as bytes: see
        `trainer.embedding_state`."""
        return self._state().to_tensor()

    def set_extra_state(self, state: Tensor) -> None:
        """Takes back `get_extra_state`."""
        self._reader.key_classes.update(self._state().parse(state).key_classes)

    def _state(self) -> EmbeddingState:
        scalars = None if self.engine is None else self.engine.scalars()
        return EmbeddingState.of(self.layout, dict(self._reader.key_classes), scalars)

    def _lookup(self, batch: RowBatch) -> Tensor:
        if self.engine is None:
            rows = torch.from_numpy(flat_rows(batch)).to(self.weight.device)
            return assemble(F.embedding(rows, self.weight, sparse=self.sparse), batch)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            vectors = self.engine.lookup(batch)
            return combine(vectors, batch.parts) if batch.parts else vectors

    def _fused(self, what: str) -> TableEngine:
        if self.engine is None:
            raise ConfigError(
                f"UnifiedEmbedding(optimizer=None) has no {what}",
                "set it on the optimizer that was given its parameters",
            )
        return self.engine

    def _apply(self, fn: Any, recurse: bool = True) -> "UnifiedEmbedding":
        """Refuses what `.to()`, `.half()` and the like would change in the fused mode."""
        if self.engine is not None:
            probe = fn(torch.empty(0, device=self.engine.device))
            if probe.dtype != torch.float32 or probe.device.type != self.engine.device.type:
                raise ConfigError(
                    f"UnifiedEmbedding: a fused table stays float32 on {self.engine.device}, and "
                    f"was asked to be {probe.dtype} on {probe.device}",
                    "build it with device=..., move its output instead, or take optimizer=None",
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        if self.engine is not None:
            for name, tensor in self.engine.tensors().items():
                destination[prefix + name] = tensor
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        extra = state_dict.get(f"{prefix}_extra_state")
        # Before a row is read: rows of another layout would load without a sign.
        saved = None if extra is None else self._state().parse(extra)
        if self.engine is None:
            super()._load_from_state_dict(
                state_dict,
                prefix,
                local_metadata,
                strict,
                missing_keys,
                unexpected_keys,
                error_msgs,
            )
            return
        missing, unexpected, errors = load_table(self.engine, state_dict, prefix, saved)
        missing_keys.extend(missing)
        unexpected_keys.extend(unexpected)
        error_msgs.extend(errors)
        if saved is not None and not errors:
            self._reader.key_classes.update(saved.key_classes)
