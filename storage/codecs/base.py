"""What every codec is: rows of float32 to rows of bytes, and back.

    rows f32[n, w] --encode--> raw u8[n, b] --decode--> rows f32[n, w]

Letters: n rows of a call, R rows of a table, w values a row, b bytes of a coded row. A coded row is
one run of bytes, codes first and then what belongs to that row alone, so that it can be gathered
and sent without looking inside. What rows have in common (codebooks, bases) is `shared`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.errors import CodecError
from native import codecs

Values = NDArray[np.float32]
Raw = NDArray[np.uint8]
Rows = NDArray[np.int64]

# Values beyond are a diverged table; below it no product or sum of a codec overflows.
LARGEST = 2.0**100

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class MeasuredError:
    """How far decoded rows are from the rows themselves."""

    relative: float
    """L2 norm of the difference over that of the rows, both over all rows together."""
    largest: float
    """The largest difference of one value."""


class ErrorSum:
    """Adds up the error of a table that is encoded block by block."""

    def __init__(self) -> None:
        self._difference = self._rows = self._largest = 0.0

    def add(self, rows: Values, decoded: Values) -> None:
        """Counts a block [n, w] in."""
        if not len(rows):
            return
        wide = rows.astype(np.float64)
        difference = wide - decoded
        self._difference += float(np.square(difference).sum())
        self._rows += float(np.square(wide).sum())
        self._largest = max(self._largest, float(np.abs(difference).max()))

    def result(self) -> MeasuredError:
        """Returns the error so far; 0 where all rows are zero and decode to zero."""
        if not self._difference:
            return MeasuredError(0.0, 0.0)
        relative = (self._difference / self._rows) ** 0.5 if self._rows else float("inf")
        return MeasuredError(relative, self._largest)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codec(ABC):
    """Rows of `width` values as rows of `row_bytes` bytes."""

    name: ClassVar[str]
    limit: ClassVar[float] = LARGEST
    """The largest size of a value that is taken."""
    bound: ClassVar[str | None] = None
    """The error of a value at most, in words; None where it can only be measured."""

    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise CodecError(
                f"{self.name}: rows of width {self.width}", "give a width of 1 or more"
            )

    @property
    def text(self) -> str:
        """What `codec_named` reads to make such a codec."""
        return self.name

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of a coded row, exactly."""

    @property
    def lookups(self) -> int | None:
        """How many lookups of a feature are served, the others being zeros; None for all."""
        return None

    @property
    def shared_bytes(self) -> int:
        """Bytes that all rows share."""
        return sum(array.nbytes for array in self.shared().values())

    def encode(self, rows: Values, threads: int = 1, *, first_row: int = 0) -> Raw:
        """Returns the coded rows [n, b].

        Raises CodecError for a value that is not finite, or too large for this codec; it names the
        row, counted from `first_row`.
        """
        self._check_rows(rows, threads, first_row)
        out = np.empty((len(rows), self.row_bytes), np.uint8)
        if len(rows):
            self._encode(rows, out, threads, first_row)
        return out

    def decode(self, raw: Raw, out: Values | None = None, threads: int = 1) -> Values:
        """Returns the values [n, w] of coded rows, in `out` where it is given.

        Raises CodecError where the rows have another number of bytes.
        """
        self._check_raw(raw)
        out = self._output(len(raw), out)
        if len(raw):
            self._decode(raw, out, threads)
        return out

    def gather(self, table: Raw, rows: Rows, out: Values | None = None, threads: int = 1) -> Values:
        """Returns the values [n, w] of table[rows], decoded as they are read.

        `out` may be columns of a wider matrix. Raises IndexError for a row outside the table.
        """
        self._check_raw(table)
        out = self._output(len(rows), out)
        if len(rows):
            self._gather(table, rows, out, threads)
        return out

    def error_bounds(self, rows: Values) -> NDArray[np.float64] | None:
        """Returns for each row [n] what no value of it is off by more than; None without `bound`.

        Of rows that `encode` takes.
        """
        del rows
        return None

    def measure(self, rows: Values, threads: int = 1) -> MeasuredError:
        """Encodes and decodes rows block by block, and returns how far they are off."""
        total = ErrorSum()
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = rows[first : first + _BLOCK_ROWS]
            raw = self.encode(block, threads, first_row=first)
            total.add(block, self.decode(raw, threads=threads))
        return total.result()

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object for a manifest; `shared` has the arrays that belong to it."""
        return {"name": self.name, "width": self.width, "row_bytes": self.row_bytes}

    def shared(self) -> dict[str, NDArray[Any]]:
        """Returns the arrays that all rows share, by name."""
        return {}

    def matches(self, other: "Codec") -> bool:
        """Whether rows coded by one decode alike by the other."""
        mine, theirs = self.shared(), other.shared()
        return (
            self.to_json() == other.to_json()
            and mine.keys() == theirs.keys()
            and all(np.array_equal(mine[name], theirs[name]) for name in mine)
        )

    @classmethod
    @abstractmethod
    def from_json(cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> "Codec":
        """Reads `to_json` and `shared` back; raises CodecError where they do not fit together."""

    @abstractmethod
    def _encode(self, rows: Values, out: Raw, threads: int, first_row: int) -> None:
        """Writes the coded rows, all values being finite and within the limit."""

    @abstractmethod
    def _decode(self, raw: Raw, out: Values, threads: int) -> None:
        """Writes the values of coded rows."""

    @abstractmethod
    def _gather(self, table: Raw, rows: Rows, out: Values, threads: int) -> None:
        """Writes the values of table[rows]."""

    def _check_rows(self, rows: Values, threads: int, first_row: int) -> None:
        if rows.ndim != 2 or rows.dtype != np.float32 or rows.shape[1] != self.width:
            raise CodecError(
                f"{self.name}: rows are {rows.dtype}{list(rows.shape)}, expected "
                f"float32[n, {self.width}]",
                "make the codec with the width of the table",
            )
        bad = codecs.first_unfit(rows, self.limit, threads) if len(rows) else -1
        if bad < 0:
            return
        row = first_row + bad
        if not np.isfinite(rows[bad]).all():
            raise CodecError(
                f"{self.text}: row {row} holds a NaN or an infinity",
                "serve the last good snapshot, and look for the step where training diverged",
            )
        raise CodecError(
            f"{self.text}: row {row} holds {np.abs(rows[bad]).max():.3g}, and the codec takes "
            f"values up to {self.limit:.6g}",
            "take float32, or find out why training gave so large a row",
        )

    def _check_raw(self, raw: Raw) -> None:
        if raw.ndim != 2 or raw.dtype != np.uint8 or raw.shape[1] != self.row_bytes:
            raise CodecError(
                f"{self.text}: coded rows are {raw.dtype}{list(raw.shape)}, expected "
                f"uint8[n, {self.row_bytes}]",
                "decode with the codec and the width that the manifest names",
            )

    def _output(self, num_rows: int, out: Values | None) -> Values:
        if out is None:
            return np.empty((num_rows, self.width), np.float32)
        if out.shape != (num_rows, self.width):
            raise ValueError(f"out is {list(out.shape)}, expected [{num_rows}, {self.width}]")
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelCodec(Codec):
    """A codec that is one kernel and shares nothing between rows."""

    kind: ClassVar[codecs.Kind]

    @property
    def row_bytes(self) -> int:
        """Bytes of a coded row, exactly."""
        return codecs.row_bytes(self.kind, self.width)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> "Codec":
        """Reads `to_json` back; raises CodecError where it does not fit together."""
        del shared
        return cls(width=tree["width"])

    def _encode(self, rows: Values, out: Raw, threads: int, first_row: int) -> None:
        del first_row
        codecs.encode(self.kind, rows, out, threads)

    def _decode(self, raw: Raw, out: Values, threads: int) -> None:
        codecs.decode(self.kind, raw, out, threads)

    def _gather(self, table: Raw, rows: Rows, out: Values, threads: int) -> None:
        codecs.gather_decode(self.kind, table, rows, out, threads)
