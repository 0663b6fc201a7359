"""Residual bit planes: the sign of every value, then n times the sign of what is left of it.

    row = scale * (+-1 +- r1 +- r1 r2 ...)        a bit for each sign, a byte for each ratio r

The first weight is the mean size of the values, each further one the mean size of what is left;
`scale` makes the norm of the decoded row that of the row, so that dot products keep their size.

Source: Rastegari et al. 2016, arXiv 1603.05279 (sign and mean); Li et al. 2017, ICCV, "Performance
guaranteed network acceleration via high-order residual quantization" (the planes).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from features.errors import CodecError
from native import codecs
from storage.codecs.base import KernelCodec

MOST_REFINEMENTS = 7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BinaryCodec(KernelCodec):
    """A bit for each value and plane; the error can only be measured."""

    name: ClassVar[str] = "binary"
    kind: ClassVar[codecs.Kind] = "binary"
    limit: ClassVar[float] = 65504.0

    refinements: int

    def __post_init__(self) -> None:
        KernelCodec.__post_init__(self)
        if not 0 <= self.refinements <= MOST_REFINEMENTS:
            raise CodecError(
                f"binary:{self.refinements}: {self.refinements} refinements",
                f"give 0 to {MOST_REFINEMENTS}, as in binary:3",
            )

    @property
    def text(self) -> str:
        """What `codec_named` reads to make such a codec."""
        return f"binary:{self.refinements}"

    @property
    def row_bytes(self) -> int:
        """Bytes of a coded row, exactly."""
        return codecs.row_bytes("binary", self.width, 1 + self.refinements)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object for a manifest."""
        return KernelCodec.to_json(self) | {"refinements": self.refinements}

    @classmethod
    def from_json(
        cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]
    ) -> "BinaryCodec":
        """Reads `to_json` back; raises CodecError where it does not fit together."""
        del shared
        return cls(width=tree["width"], refinements=tree["refinements"])
