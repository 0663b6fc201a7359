"""How converted rows are dealt to train, valid and test: at random by a seed, or by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.errors import ConfigError

PARTS = ("train", "valid", "test")
BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Split:
    """The shares of train, valid and test in percent, and who goes where."""

    shares: tuple[int, int, int]
    by: Literal["random", "time"] = "random"
    seed: int = 0

    def ends(self, rows: int) -> list[int]:
        """Returns for each part how many of the first `rows` rows belong to it or to one before."""
        ends, total = [], 0
        for share in self.shares:
            total += share
            ends.append(rows * total // 100)
        return ends


def parse_split(text: str, by: Literal["random", "time"], seed: int) -> Split:
    """Returns the split of "80/10/10"; raises ConfigError if it is none."""
    words = text.split("/")
    shares = [int(word) if word.isdigit() else -1 for word in words]
    if len(shares) != len(PARTS) or min(shares) < 0 or sum(shares) != 100 or shares[0] == 0:
        raise ConfigError(
            f'--split "{text}" is no split',
            "write the percentages of train, valid and test, adding up to 100: --split 80/10/10",
        )
    train, valid, test = shares
    return Split((train, valid, test), by, seed)


class Dealer:
    """Deals consecutive blocks of rows to the parts.

    At random: block b is permuted by (seed, b) and cut so that the shares hold exactly over all
    rows so far; so it needs neither memory nor the number of rows. By time: the rows come in the
    order of time and are cut at the shares of `total_rows`.
    """

    def __init__(self, split: Split, total_rows: int | None = None) -> None:
        if split.by == "time" and total_rows is None:
            raise AssertionError("a split by time needs the number of rows")
        self._split = split
        self._total = total_rows
        self._rows = 0
        self._blocks = 0

    def deal(self, num_rows: int) -> list[npt.NDArray[np.int64]]:
        """Returns for each part the rows of the next block that are its, in their order."""
        lo, hi = self._rows, self._rows + num_rows
        self._rows = hi
        if self._split.by == "time":
            cuts = self._split.ends(self._total or 0)[:-1]
            return np.split(np.arange(num_rows), np.clip(np.array(cuts) - lo, 0, num_rows))
        from native.order import derive, permutation

        order = permutation(num_rows, derive("split", self._split.seed, self._blocks))
        self._blocks += 1
        before, after = self._split.ends(lo), self._split.ends(hi)
        cuts = [b - a for a, b in zip(before, after, strict=True)][:-1]
        return [np.sort(part).astype(np.int64) for part in np.split(order, cuts)]


def describe_parts(counts: Sequence[int]) -> str:
    """Returns "591,209 train, 73,901 valid, 73,902 test"."""
    return ", ".join(f"{n:,} {part}" for part, n in zip(PARTS, counts, strict=True) if n)
