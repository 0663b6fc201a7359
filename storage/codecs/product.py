"""Product quantisation: a row in M parts, each as the number of the nearest of 256 entries.

    pq:8x8     8 parts of 8 bits: width / 8 values a byte
    opq:8x8    the same after a rotation that spreads what the values have in common over the parts

Trained by faiss, which nothing else here needs: codes and values are our own kernels.

Sources: Jegou, Douze, Schmid 2011, "Product quantization for nearest neighbor search" (PQ); Ge, He,
Ke, Sun 2014, "Optimized product quantization" (OPQ).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.errors import CodecError
from native import codecs
from storage.codecs.base import Codec, Raw, Rows, Values
from storage.codecs.parts import finite_sample, float32_array
from storage.codecs.training import train_product, train_rotation

BITS = 8
ENTRIES = 1 << BITS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PqCodec(Codec):
    """A byte for each part of a row; the error can only be measured."""

    name: ClassVar[str] = "pq"
    # Squares of differences are summed in float32.
    limit: ClassVar[float] = 2.0**50

    codebook: Values
    """The entries [M, 256, width / M]."""

    @property
    def text(self) -> str:
        """What `codec_named` reads to make such a codec."""
        return f"{self.name}:{self.parts}x{BITS}"

    @property
    def parts(self) -> int:
        """Parts of a row, M."""
        return self.codebook.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of a coded row, exactly."""
        return self.parts

    @classmethod
    def fit(cls, rows: Values, width: int, *, parts: int) -> "PqCodec":
        """Returns a codec trained on sample rows [n, width]."""
        check_parts(cls.name, width, parts)
        return cls(width=width, codebook=train_product(finite_sample(rows, width, cls), parts))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object for a manifest."""
        return Codec.to_json(self) | {"parts": self.parts, "bits": BITS}

    def shared(self) -> dict[str, NDArray[Any]]:
        """Returns the codebook."""
        return {"codebook": self.codebook}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> "PqCodec":
        """Reads `to_json` and `shared` back; raises CodecError where they do not fit together."""
        return cls(width=tree["width"], codebook=_codebook(cls.name, tree, shared))

    def _encode(self, rows: Values, out: Raw, threads: int, first_row: int) -> None:
        del first_row
        codecs.encode_pq(self.codebook, rows, out, threads)

    def _decode(self, raw: Raw, out: Values, threads: int) -> None:
        codecs.decode("pq", raw, out, threads, self.codebook)

    def _gather(self, table: Raw, rows: Rows, out: Values, threads: int) -> None:
        codecs.gather_decode("pq", table, rows, out, threads, self.codebook)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpqCodec(PqCodec):
    """A byte for each part of the rotated row; the error can only be measured."""

    name: ClassVar[str] = "opq"

    rotation: Values
    """Orthonormal [width, width]: rotated = row @ rotation.T, row = rotated @ rotation."""

    @classmethod
    def fit(cls, rows: Values, width: int, *, parts: int) -> "OpqCodec":
        """Returns a codec trained on sample rows [n, width]."""
        check_parts(cls.name, width, parts)
        sample = finite_sample(rows, width, cls)
        rotation = train_rotation(sample, parts)
        rotated = np.empty_like(sample)
        codecs.affine(sample, _transposed(rotation), _zeros(width), rotated)
        return cls(width=width, codebook=train_product(rotated, parts), rotation=rotation)

    def shared(self) -> dict[str, NDArray[Any]]:
        """Returns codebook and rotation."""
        return {"codebook": self.codebook, "rotation": self.rotation}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> "OpqCodec":
        """Reads `to_json` and `shared` back; raises CodecError where they do not fit together."""
        width = tree["width"]
        return cls(
            width=width,
            codebook=_codebook(cls.name, tree, shared),
            rotation=float32_array(cls.name, shared, "rotation", (width, width)),
        )

    def _encode(self, rows: Values, out: Raw, threads: int, first_row: int) -> None:
        rotated = np.empty((len(rows), self.width), np.float32)
        codecs.affine(rows, _transposed(self.rotation), _zeros(self.width), rotated, threads)
        PqCodec._encode(self, rotated, out, threads, first_row)

    def _decode(self, raw: Raw, out: Values, threads: int) -> None:
        rotated = np.empty((len(raw), self.width), np.float32)
        PqCodec._decode(self, raw, rotated, threads)
        codecs.affine(rotated, self.rotation, _zeros(self.width), out, threads)

    def _gather(self, table: Raw, rows: Rows, out: Values, threads: int) -> None:
        rotated = np.empty((len(rows), self.width), np.float32)
        PqCodec._gather(self, table, rows, rotated, threads)
        codecs.affine(rotated, self.rotation, _zeros(self.width), out, threads)


def check_parts(name: str, width: int, parts: int) -> None:
    """Raises CodecError where rows of a width do not fall into so many equal parts."""
    if parts < 1 or width % parts:
        fitting = [str(count) for count in range(1, width + 1) if width % count == 0]
        raise CodecError(
            f"{name}:{parts}x{BITS}: rows of width {width} do not fall into {parts} equal parts",
            f"take one of {', '.join(fitting)} parts",
        )


def _codebook(name: str, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> Values:
    width, parts = tree["width"], tree["parts"]
    if tree["bits"] != BITS:
        raise CodecError(f"{name}: codes of {tree['bits']} bits", f"read codes of {BITS} bits")
    check_parts(name, width, parts)
    return float32_array(name, shared, "codebook", (parts, ENTRIES, width // parts))


def _transposed(rotation: Values) -> Values:
    return np.ascontiguousarray(rotation.T)


def _zeros(width: int) -> Values:
    return np.zeros(width, np.float32)
