"""Readers out of the JSON objects of manifests: nothing there is believed before it is checked."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from features.hashed import Hashing
from features.readers.base import Reader
from features.readers.digits import Digits
from features.readers.exact import ExactReader
from features.readers.network import SALT, NetworkReader, num_weights
from features.readers.product import ProductReader
from features.readers.ring import RingReader
from features.readers.signed import SignedReader
from features.readers.tensor_train import TensorTrainReader, core_rows
from features.readers.weighted import WeightedReader

_Count = Annotated[int, Field(ge=1, le=2**40)]
_Small = Annotated[int, Field(ge=1, le=65536)]
_Place = Annotated[int, Field(ge=0, le=2**41)]
_Radices = Annotated[tuple[_Count, ...], Field(min_length=1, max_length=8)]
_Dims = Annotated[tuple[_Small, ...], Field(min_length=2, max_length=8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a reader stands: its feature's hash functions and region, and the whole table."""

    salt_name: str
    num_lookups: int
    hash_seed: int
    base: int
    rows: int
    width: int
    table_rows: int
    vocabulary: NDArray[np.uint64] | None

    def hashing(self, count: int) -> Hashing:
        """The first `count` hash functions of the feature into its region."""
        return Hashing.named(self.salt_name, count, self.hash_seed, self.base, self.rows)

    def dictionary(self) -> NDArray[np.uint64]:
        """The vocabulary, which has to be there; ValueError otherwise."""
        keys = self.vocabulary
        if keys is None:
            raise ValueError("a reader's dictionary is missing")
        if keys.dtype != np.uint64 or keys.ndim != 1 or not (keys[1:] > keys[:-1]).all():
            raise ValueError("a reader's dictionary is no rising vector of uint64")
        return keys


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Exact(_Model):
    kind: Literal["exact"]
    count: _Small
    width: _Small

    def reader(self, site: Site) -> Reader:
        _check(self.width <= self.count * site.width, "its rows are too few")
        return ExactReader(site.base, self.count, self.width, site.dictionary())


class _Weighted(_Model):
    kind: Literal["weighted_sum"]
    base: _Place
    rows: _Count

    def reader(self, site: Site) -> Reader:
        _check(1 <= site.num_lookups <= site.width, "a row holds no set of importances")
        _check(self.base + self.rows <= site.table_rows, "its importances are outside the table")
        return WeightedReader.of(
            site.hashing(site.num_lookups),
            site.salt_name,
            site.hash_seed,
            self.base,
            self.rows,
            site.width,
        )


class _Signed(_Model):
    kind: Literal["signed_scalar"]
    width: _Small

    def reader(self, site: Site) -> Reader:
        _check(site.width == 1, "its rows are no scalars")
        return SignedReader(site.hashing(self.width))


class _Ring(_Model):
    kind: Literal["ring_block"]
    block: _Small
    width: _Small

    def reader(self, site: Site) -> Reader:
        _check(site.width == 1, "its rows are no scalars")
        _check(self.block <= site.rows, "a block is longer than the ring")
        return RingReader(site.hashing(-(-self.width // self.block)), self.block, self.width)


class _Product(_Model):
    kind: Literal["product"]
    offset: _Place
    radices: _Radices
    gain: float

    def reader(self, site: Site) -> Reader:
        _check(sum(self.radices) <= site.rows, "its digits need more rows")
        digits = _digits(site, self.offset, self.radices)
        return ProductReader(digits, site.base, site.width, self.gain)


class _TensorTrain(_Model):
    kind: Literal["tensor_train"]
    offset: _Place
    radices: _Radices
    dims: _Dims
    width: _Small
    gain: float

    def reader(self, site: Site) -> Reader:
        _check(len(self.dims) == len(self.radices), "it has other digits than cores")
        _check(math.prod(self.dims) >= self.width, "its cores are too small")
        counts = core_rows(self.dims, site.width)
        needed = sum(n * count for n, count in zip(self.radices, counts, strict=True))
        _check(needed <= site.rows, "its cores need more rows")
        digits = _digits(site, self.offset, self.radices)
        return TensorTrainReader(digits, site.base, self.dims, site.width, self.width, self.gain)


class _Network(_Model):
    kind: Literal["program"]
    base: _Place
    rows: _Count
    hashes: _Small
    hidden: _Small
    width: _Small
    init_scale: Annotated[float, Field(ge=0)]

    def reader(self, site: Site) -> Reader:
        _check(self.base + self.rows <= site.table_rows, "its network is outside the table")
        needed = num_weights(self.hashes, self.hidden, self.width)
        _check(needed <= self.rows * site.width, "its network has too few rows")
        hashing = Hashing.named(site.salt_name + SALT, self.hashes, site.hash_seed, 0, 1)
        return NetworkReader(
            hashing, self.base, self.rows, self.hidden, self.width, self.init_scale
        )


_Any = Annotated[
    _Exact | _Weighted | _Signed | _Ring | _Product | _TensorTrain | _Network,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(_Any)


def make_reader(tree: dict[str, Any], site: Site) -> Reader:
    """Returns the reader of a JSON object; ValueError where it does not fit its site."""
    try:
        parsed = _ADAPTER.validate_json(json.dumps(tree))
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        key = ".".join(map(str, error["loc"]))
        raise ValueError(f"reader: {key}: {error['msg']}") from exc
    reader: Reader = parsed.reader(site)
    return reader


def _digits(site: Site, offset: int, radices: tuple[int, ...]) -> Digits:
    keys = site.dictionary()
    _check(offset + len(keys) + 2 <= math.prod(radices), "its digits do not tell its values apart")
    return Digits(keys, offset, radices)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"a reader does not fit: {what}")
