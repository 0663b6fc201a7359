"""What every reader does.

Letters: n values, c rows read for each, d floats of a row, D floats of a vector.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.batches import KeyColumn

# float32, a numpy array or a torch tensor.
Array = Any


@dataclass(frozen=True, slots=True)
class Reading:
    """What keys read.

    rows    int64[c, n], or [c, 1] where all values read the same rows
    extra   what `combine` needs beside the rows, or None
    """

    rows: NDArray[np.int64]
    extra: NDArray[Any] | None = None


class Reader(ABC):
    """Keys to rows, and rows to vectors."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def out_width(self) -> int:
        """Floats of a vector."""

    @property
    @abstractmethod
    def floats_per_value(self) -> int:
        """Numbers that training keeps for each value: the rows read, and what is made of them."""

    @property
    def num_lookups(self) -> int:
        """Hash functions of the feature whose rows in its region are read."""
        return 0

    @abstractmethod
    def read(self, column: KeyColumn, threads: int = 1) -> Reading:
        """Returns what n keys read; their offsets are not looked at."""

    @abstractmethod
    def combine(self, rows: Array, extra: Array | None) -> Array:
        """Returns the vectors [n, D] of the rows [c, n, d] of a Reading."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Returns what `features.readers.registry` makes the reader of again, as JSON values."""

    @property
    def vocabulary(self) -> NDArray[np.uint64] | None:
        """The sorted keys it tells apart, where it knows them."""
        return None


def side_by_side(rows: Array, out_width: int) -> Array:
    """Returns rows [c, n, d] laid side by side [n, D], cut to `out_width` columns."""
    count, num_values, width = rows.shape
    return rows.swapaxes(0, 1).reshape(num_values, count * width)[:, :out_width]
