"""What the state_dict of a UnifiedEmbedding holds beside its rows, and how it is taken back.

`PREFIX_extra_state` is a uint8 tensor of UTF-8 JSON, so that every writer of tensors can keep it
and reading it runs no code:

    format            1
    layout            features, regions, salts and seeds: rows of another layout are refused
    vocabularies      sha256 of the exact features' vocabularies
    key_classes       {feature: "int", "string" or null}
    scalars           the table engine's, or null for a parameter
"""

import hashlib
import json
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from features.errors import SnapshotError
from features.routing import Layout
from features.statistics import KeyClass
from sharding.table import Scalars, TableEngine

EXTRA = "_extra_state"


class EmbeddingState(BaseModel):
    """The extra state, parsed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    layout: dict[str, Any]
    vocabularies: str
    key_classes: dict[str, KeyClass | None]
    scalars: Scalars | None

    @classmethod
    def of(
        cls, layout: Layout, key_classes: dict[str, KeyClass | None], scalars: Scalars | None
    ) -> "EmbeddingState":
        """The state of a module with this layout."""
        tree = layout.to_json()
        for feature in tree["features"]:
            # Learned with the first batch: two modules of one layout may differ in it.
            del feature["key_class"]
        return cls(
            format=1,
            layout=tree,
            vocabularies=_digest(layout),
            key_classes=key_classes,
            scalars=scalars,
        )

    def to_tensor(self) -> Tensor:
        """Returns the state as bytes."""
        return torch.frombuffer(bytearray(self.model_dump_json().encode()), dtype=torch.uint8)

    def parse(self, tensor: object) -> "EmbeddingState":
        """Reads `to_tensor` of a module whose layout has to be this one's; SnapshotError where it
        is damaged or differs."""
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.dim() != 1:
            raise SnapshotError(
                f"the saved {EXTRA} of a UnifiedEmbedding is no vector of bytes",
                "load what state_dict of a UnifiedEmbedding gave",
            )
        try:
            saved = EmbeddingState.model_validate_json(tensor.cpu().numpy().tobytes())
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            raise SnapshotError(
                f"the saved {EXTRA} of a UnifiedEmbedding is damaged: "
                f"{'.'.join(map(str, error['loc']))}: {error['msg']}",
                "load what state_dict of a UnifiedEmbedding gave",
            ) from exc
        difference = _difference(saved, self)
        if difference is not None:
            raise SnapshotError(
                f"the saved rows belong to another layout: {difference}",
                "build the UnifiedEmbedding with the arguments it was saved with",
            )
        return saved


def load_table(
    engine: TableEngine, state_dict: dict[str, Any], prefix: str, saved: EmbeddingState | None
) -> tuple[list[str], list[str], list[str]]:
    """Reads a fused table out of a state dict; returns missing keys, unexpected keys and errors.

    Where the optimizer's state is absent or another optimizer's, its keys count as missing and the
    rows alone are read, which is what `strict=False` asks for (torch tells no module whether it is
    strict). Nothing is read where a shape is wrong.
    """
    tensors = engine.tensors()
    missing = [name for name in tensors if f"{prefix}{name}" not in state_dict]
    scalars = None if saved is None else saved.scalars
    optimizer = engine.optimizer if scalars is None else scalars.get("optimizer")
    if optimizer != engine.optimizer:
        note = f'of optimizer "{engine.optimizer}" (the saved state is of "{optimizer}")'
        missing = [name for name in missing if name == "weight"]
        missing += [f"{name} {note}" for name in tensors if name != "weight"]
    if saved is None:
        missing.append(EXTRA)
    own = (key.removeprefix(prefix) for key in state_dict if key.startswith(prefix))
    unexpected = [name for name in own if name not in tensors and name != EXTRA]
    is_whole = scalars is not None and not missing and optimizer == engine.optimizer
    wanted = list(tensors) if is_whole else [n for n in ("weight",) if prefix + n in state_dict]
    errors = [
        f"size mismatch for {prefix}{name}: {list(state_dict[prefix + name].shape)} in the "
        f"checkpoint, {list(tensors[name].shape)} in the table"
        for name in wanted
        if state_dict[prefix + name].shape != tensors[name].shape
    ]

    def read(name: str, first: int, last: int, out: NDArray[np.float32]) -> None:
        torch.from_numpy(out).copy_(state_dict[prefix + name][first:last])

    if not errors and is_whole and scalars is not None:
        engine.load_state(read, scalars)
    elif not errors and wanted:
        with torch.no_grad():
            engine.weight.copy_(state_dict[f"{prefix}weight"])
    return _under(prefix, missing), _under(prefix, unexpected), errors


def _under(prefix: str, names: list[str]) -> list[str]:
    return [prefix + name for name in names]


def _digest(layout: Layout) -> str:
    digest = hashlib.sha256()
    for name, keys in sorted(layout.vocabularies().items()):
        digest.update(f"{name} {len(keys)}\n".encode())
        digest.update(np.ascontiguousarray(keys, "<u8").tobytes())
    return digest.hexdigest()


def _difference(saved: EmbeddingState, own: EmbeddingState) -> str | None:
    """The first thing in which two layouts differ, in words; None where nothing does."""
    if saved.layout != own.layout:
        for key in ("hash", "hash_seed", "width", "rows"):
            if saved.layout.get(key) != own.layout[key]:
                return f"{key} is {saved.layout.get(key)} there and {own.layout[key]} here"
        for key in ("features", "regions"):
            if saved.layout.get(key) != own.layout[key]:
                return f"its {key} differ: {_first(saved.layout.get(key), own.layout[key])}"
        return "it has other keys"
    if saved.vocabularies != own.vocabularies:
        return "an exact feature has another vocabulary"
    return None


def _first(saved: object, own: list[Any]) -> str:
    theirs = saved if isinstance(saved, list) else []
    for there, here in zip(theirs, own, strict=False):
        if there != here:
            return f"{_brief(there)} there and {_brief(here)} here"
    return f"{len(theirs)} there and {len(own)} here"


def _brief(part: Any) -> str:
    text = json.dumps(part)
    return text if len(text) <= 300 else f"{text[:300]}..."
