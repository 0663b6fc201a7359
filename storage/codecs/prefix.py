"""The first lookups of every feature, by an inner codec; the others are served as zeros.

    prefix:1+int8    one lookup of each feature

A reply then has fewer rows. The table has as many as before, since hashed features share them: only
the rows of exact features beyond the first lookups are never read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.errors import CodecError
from features.regions import MAX_LOOKUPS
from storage.codecs.base import Codec, Raw, Rows, Values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixCodec(Codec):
    """Rows as the inner codec stores them; `lookups` says how many of a feature are served."""

    name: ClassVar[str] = "prefix"

    count: int
    """Lookups of each feature that are served."""
    inner: Codec

    def __post_init__(self) -> None:
        Codec.__post_init__(self)
        if (
            not 1 <= self.count <= MAX_LOOKUPS
            or self.inner.lookups is not None
            or self.inner.width != self.width
        ):
            raise CodecError(
                f"{self.text}: {self.count} lookups over {self.inner.text}",
                f"give 1 to {MAX_LOOKUPS} lookups and one codec for rows, as in prefix:1+int8",
            )

    @property
    def text(self) -> str:
        """What `codec_named` reads to make such a codec."""
        return f"prefix:{self.count}+{self.inner.text}"

    @property
    def bound(self) -> str | None:  # type: ignore[override]
        """The inner codec's bound."""
        return self.inner.bound

    @property
    def row_bytes(self) -> int:
        """Bytes of a coded row, exactly."""
        return self.inner.row_bytes

    @property
    def lookups(self) -> int:
        """How many lookups of a feature are served, the others being zeros."""
        return self.count

    def error_bounds(self, rows: Values) -> NDArray[np.float64] | None:
        """Returns what no value of a row [n] is off by more than; see the inner codec."""
        return self.inner.error_bounds(rows)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object for a manifest."""
        return Codec.to_json(self) | {"lookups": self.count, "inner": self.inner.to_json()}

    def shared(self) -> dict[str, NDArray[Any]]:
        """Returns the inner codec's arrays."""
        return self.inner.shared()

    @classmethod
    def from_json(
        cls, tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]
    ) -> "PrefixCodec":
        """Reads `to_json` and `shared` back; raises CodecError where they do not fit together."""
        from storage.codecs.registry import codec_from_json

        inner = codec_from_json(tree["inner"], shared)
        return cls(width=tree["width"], count=tree["lookups"], inner=inner)

    def _encode(self, rows: Values, out: Raw, threads: int, first_row: int) -> None:
        out[:] = self.inner.encode(rows, threads, first_row=first_row)

    def _decode(self, raw: Raw, out: Values, threads: int) -> None:
        self.inner.decode(raw, out, threads)

    def _gather(self, table: Raw, rows: Rows, out: Values, threads: int) -> None:
        self.inner.gather(table, rows, out, threads)
