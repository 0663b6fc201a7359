"""Deep hash embedding (Kang et al., KDD 2021): a network makes the vector out of many hashes.

k hash functions turn a key into k numbers in (-1, 1); two hidden layers of `hidden` units with
ReLU and one linear layer turn those into D floats. The weights are rows of the table like others,
read whole for every batch and used as one long vector: W1, b1, W2, b2, W3, b3.

Weights start as small as any row. The gain of each layer brings them to the size that keeps the
numbers between layers in range (He et al., 2015), whatever rows start with.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from features.batches import KeyColumn
from features.hashed import Hashing
from features.readers.base import Array, Reader, Reading

SALT = "\0network"


@dataclass(frozen=True, slots=True, eq=False)
class NetworkReader(Reader):
    """A network in the `rows` rows from `base` on."""

    kind: ClassVar[str] = "program"

    hashing: Hashing
    base: int
    rows: int
    hidden: int
    width: int
    init_scale: float

    @property
    def out_width(self) -> int:
        """Floats of a vector."""
        return self.width

    @property
    def num_hashes(self) -> int:
        """k."""
        return len(self.hashing.feature)

    @property
    def floats_per_value(self) -> int:
        """Numbers kept for each value."""
        return self.num_hashes + 2 * (self.hidden + self.width)

    def read(self, column: KeyColumn, _threads: int = 1) -> Reading:
        """Returns all rows of the network [rows, 1] and the numbers float32[n, k]."""
        high = (self.hashing.mixed(column.keys, column.nulls) >> np.uint64(40)).astype(np.float32)
        encoded = np.ascontiguousarray((high * np.float32(2**-23) - np.float32(1)).T)
        return Reading(np.arange(self.base, self.base + self.rows)[:, None], encoded)

    def combine(self, rows: Array, extra: Array | None) -> Array:
        """Returns what the network makes of the numbers."""
        weights = rows.reshape(-1)
        units, first = extra, 0
        shapes = layers(self.num_hashes, self.hidden, self.width)
        for place, (before, after) in enumerate(shapes):
            gain = self._gain(place, before)
            matrix = weights[first : first + before * after].reshape(before, after)
            first += before * after
            bias = weights[first : first + after]
            first += after
            units = (units @ matrix) * gain + bias
            if place < len(shapes) - 1:
                units = units * (units > 0)
        return units

    def to_json(self) -> dict[str, Any]:
        """Returns where the network is and its shape."""
        return {
            "kind": self.kind,
            "base": self.base,
            "rows": self.rows,
            "hashes": self.num_hashes,
            "hidden": self.hidden,
            "width": self.width,
            "init_scale": self.init_scale,
        }

    def _gain(self, place: int, fan_in: int) -> float:
        std = self.init_scale / math.sqrt(3)
        if place == 2 or not std:
            return 1 / math.sqrt(fan_in)
        # The mean square of a uniform number in (-1, 1) is 1/3, that of a unit behind ReLU 1.
        return math.sqrt((6 if place == 0 else 2) / fan_in) / std


def layers(num_hashes: int, hidden: int, width: int) -> tuple[tuple[int, int], ...]:
    """Returns fan in and fan out of each layer."""
    return ((num_hashes, hidden), (hidden, hidden), (hidden, width))


def num_weights(num_hashes: int, hidden: int, width: int) -> int:
    """Returns the floats of a network."""
    return sum((before + 1) * after for before, after in layers(num_hashes, hidden, width))
