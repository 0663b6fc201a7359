"""Principal components: a row as its coordinates along the k directions in which rows differ most.

    pca:16+int8    16 coordinates, each row of them by an inner codec

    row = mean + coordinates @ basis

Worth it where the values of a row go together; where they do not, k of w coordinates lose as much
as leaving w - k values away.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PcaCodec(Codec):
    """Coordinates along principal directions; the error can only be measured."""

    name: ClassVar[str] = "pca"

    mean: Values
    """The mean row [width]."""
    basis: Values
    """Orthonormal directions [k, width], the one in which rows differ most first."""
    inner: Codec
    """What stores the k coordinates."""

    @property
    def text(self) -> str:
        """What `codec_named` reads to make such a codec."""
        return f"pca:{len(self.basis)}+{self.inner.text}"

    @property
    def row_bytes(self) -> int:
        """Bytes of a coded row, exactly."""
        return self.inner.row_bytes

    @classmethod
    def fit(cls, rows: Values, width: int, *, dims: int, inner: Codec) -> "PcaCodec":
        """Returns a codec with the directions of sample rows [n, width]; `inner` has width dims."""
        _check_dims(width, dims)
        wide = finite_sample(rows, width, cls).astype(np.float64)
        mean = wide.mean(axis=0)
        wide -= mean
        _, directions = np.linalg.eigh(wide.T @ wide)
        basis = directions.T[::-1][:dims]
        # A direction and its opposite are equally right: the largest component is positive.
        largest = np.abs(basis).argmax(axis=1)
        basis = basis * np.sign(basis[np.arange(dims), largest])[:, None]
        return cls(
            width=width,
            mean=mean.astype(np.float32),
            basis=np.ascontiguousarray(basis, np.float32),
            inner=inner,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object for a manifest."""
        return Codec.to_json(self) | {"dims": len(self.basis), "inner": self.inner.to_json()}

    def shared(self) -> dict[str, NDArray[Any]]:
        """Returns mean and basis."""
        return {"mean": self.mean, "basis": self.basis}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> "PcaCodec":
        """Reads `to_json` and `shared` back; raises CodecError where they do not fit together."""
        from storage.codecs.registry import codec_from_json

        width, dims = tree["width"], tree["dims"]
        _check_dims(width, dims)
        inner = codec_from_json(tree["inner"], {})
        if inner.width != dims:
            raise CodecError(
                f"pca: {dims} coordinates, and the inner codec has width {inner.width}",
                "fetch the snapshot again; its manifest is damaged",
            )
        return cls(
            width=width,
            mean=float32_array("pca", shared, "mean", (width,)),
            basis=float32_array("pca", shared, "basis", (dims, width)),
            inner=inner,
        )

    def _encode(self, rows: Values, out: Raw, threads: int, first_row: int) -> None:
        coordinates = np.empty((len(rows), len(self.basis)), np.float32)
        across, zeros = np.ascontiguousarray(self.basis.T), np.zeros(len(self.basis), np.float32)
        codecs.affine(rows - self.mean, across, zeros, coordinates, threads)
        out[:] = self.inner.encode(coordinates, threads, first_row=first_row)

    def _decode(self, raw: Raw, out: Values, threads: int) -> None:
        coordinates = self.inner.decode(raw, threads=threads)
        codecs.affine(coordinates, self.basis, self.mean, out, threads)

    def _gather(self, table: Raw, rows: Rows, out: Values, threads: int) -> None:
        coordinates = self.inner.gather(table, rows, threads=threads)
        codecs.affine(coordinates, self.basis, self.mean, out, threads)


def _check_dims(width: int, dims: int) -> None:
    if not 1 <= dims <= width:
        raise CodecError(
            f"pca:{dims}: {dims} coordinates of rows of width {width}",
            f"give 1 to {width} coordinates",
        )
