"""The hash functions of lookups, made ready for one native call over the keys of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.hashing import null_salts, salts
from features.regions import Lookup
from native import hashing as native


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hashing:
    """The arguments of a native call that hashes the keys of features to rows."""

    feature: NDArray[np.int32]
    salts: NDArray[np.uint64]
    null_salts: NDArray[np.uint64]
    bases: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, lookups: Sequence[tuple[int, Lookup]]) -> Self:
        """For lookups, each with the number of its feature among the keys."""
        return cls(
            feature=np.array([number for number, _ in lookups], np.int32),
            salts=np.array([lookup.salt for _, lookup in lookups], np.uint64),
            null_salts=np.array([lookup.null_salt for _, lookup in lookups], np.uint64),
            bases=np.array([lookup.base for _, lookup in lookups], np.int64),
            sizes=np.array([lookup.rows for _, lookup in lookups], np.int64),
        )

    @classmethod
    def named(cls, name: str, count: int, hash_seed: int, base: int, rows: int) -> Self:
        """For the `count` hash functions of a name into the rows from `base` on."""
        return cls(
            feature=np.zeros(count, np.int32),
            salts=salts(name, count, hash_seed),
            null_salts=null_salts(name, count, hash_seed),
            bases=np.full(count, base, np.int64),
            sizes=np.full(count, rows, np.int64),
        )

    def write(
        self,
        keys: NDArray[np.uint64],
        nulls: NDArray[np.uint8] | None,
        out: NDArray[np.int64],
        threads: int,
    ) -> None:
        """Writes the rows [L, n] of keys [F, n]."""
        if out.size:
            native.hash_rows(
                keys,
                nulls,
                self.feature,
                self.salts,
                self.null_salts,
                self.bases,
                self.sizes,
                out,
                threads,
            )

    def rows_of(
        self, keys: NDArray[np.uint64], nulls: NDArray[np.uint8] | None, threads: int
    ) -> NDArray[np.int64]:
        """Returns the rows [L, n] of one feature's keys [n]."""
        out = np.empty((len(self.feature), len(keys)), np.int64)
        self.write(keys[None], None if nulls is None else nulls[None], out, threads)
        return out

    def mixed(
        self, keys: NDArray[np.uint64], nulls: NDArray[np.uint8] | None
    ) -> NDArray[np.uint64]:
        """Returns mix64(key ^ salt) [L, n] of one feature's keys [n]: what rows are made of."""
        salted = keys ^ self.salts[:, None]
        if nulls is not None:
            np.copyto(salted, self.null_salts[:, None], where=nulls.view(bool))
        return native.mix64(salted.reshape(-1)).reshape(salted.shape)
