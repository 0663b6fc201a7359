"""Hashing: ids and strings to rows on one core, and how many values then share one.

int64_per_s        int64 ids to rows, keys in memory (floor 600 M with AVX-512)
strings_per_s      12-byte strings of an Arrow column to keys and rows (floor 30 M)
co_residents_pf    same-feature co-residents of a value on Criteo's vocabularies in a table of a
                   tenth of their rows, a range for each feature (10.0 expected)
co_residents_mx    the same, all features in one region (0.93 expected)
"""

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from features.collisions import forecast, mean_co_residents, measured_collisions
from features.columns import keys_of
from features.hashing import hashed_rows, null_salts, salts
from features.routing import Layout
from features.schema import Feature, FeatureSet
from features.settings import FeaturesSettings, TableSettings
from features.statistics import CategoricalStatistics
from native import hashing, kernels
from trainer.representations.registry import build_layout

# Vocabulary sizes of Criteo's 26 features after pruning (arXiv 2305.12102, Table 4).
CRITEO = (
    *(676, 533, 17447, 19995, 180, 13, 9693, 337, 3, 14637, 4378, 17795, 3067),
    *(26, 6504, 18679, 10, 3102, 1557, 3, 18230, 10, 14, 13079, 56, 10581),
)
# A batch of ids as training routes it stays in the cache, as its rows do; 2^32 is where the
# arithmetic changes.
BATCH = 8192
REGIONS = {"below 2^32 rows": 160_605, "above 2^32 rows": 2**40 + 13}


def main() -> None:
    """Runs the benchmark."""
    options = harness.start("hashing", __doc__, threads=1)
    repeats = 5 if options.quick else 31
    calls = 20 if options.quick else 400
    rows = [
        *_integers(calls, repeats, options.threads),
        _strings(100_000 if options.quick else 1_000_000, repeats),
    ]
    hash_seeds = range(1 if options.quick else 5)
    collisions = [_co_residents(multiplexed, hash_seeds) for multiplexed in (False, True)]
    ratios = {
        "int64_per_s": rows[0]["per_s"],
        "strings_per_s": rows[-1]["per_s"],
        "co_residents_pf": collisions[0]["measured"],
        "co_residents_mx": collisions[1]["measured"],
    }
    rows += [{"what": name} | one for name, one in zip(("PF", "MX"), collisions, strict=True)]
    harness.finish(options, ratios, rows)


def _integers(calls: int, repeats: int, threads: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, (1, BATCH), dtype=np.uint64)
    out = np.empty((1, BATCH), np.int64)
    feature = np.zeros(1, np.int32)
    salt, null_salt = salts("user_id", 1, 0), null_salts("user_id", 1, 0)
    base = np.zeros(1, np.int64)
    rows = []
    for what, num_rows in REGIONS.items():
        size = np.full(1, num_rows, np.int64)

        def route(size: np.ndarray = size) -> None:
            for _ in range(calls):
                hashing.hash_rows(keys, None, feature, salt, null_salt, base, size, out, threads)

        seconds = harness.compare({"route": route}, repeats)["route"]
        rows.append(
            {
                "what": f"int64, {what}",
                "per_s": calls * BATCH / seconds,
                "instruction_set": kernels.instruction_set(),
            }
        )
    return rows


def _strings(count: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    letters = rng.integers(97, 123, count * 12, dtype=np.uint8)
    offsets = np.arange(0, count * 12 + 1, 12, dtype=np.int32)
    array = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))
    feature = Feature(name="x", kind="categorical", columns=("x",), salt_name="x", num_lookups=1)

    def route() -> None:
        column = keys_of(array, feature, "benchmark")
        hashed_rows(column.keys, column.nulls, name="x", num_lookups=1, num_rows=160_605)

    seconds = harness.compare({"route": route}, repeats)["route"]
    return {"what": "12-byte strings", "per_s": count / seconds}


def _co_residents(multiplexed: bool, hash_seeds: range) -> dict[str, float]:
    """Measured over distinct random keys, mean over hash seeds, beside the forecast."""
    rng = np.random.default_rng(2)
    keys = {
        f"C{i + 1}": rng.integers(0, 2**64, size, dtype=np.uint64) for i, size in enumerate(CRITEO)
    }
    measured = []
    for hash_seed in hash_seeds:
        layout = _criteo(keys, multiplexed, hash_seed)
        measured.append(
            mean_co_residents(measured_collisions(layout, name, keys[name]) for name in keys)
        )
    cardinality = {name: len(values) for name, values in keys.items()}
    return {
        "measured": float(np.mean(measured)),
        "expected": mean_co_residents(forecast(layout, cardinality)),
    }


def _criteo(keys: dict[str, np.ndarray], multiplexed: bool, hash_seed: int) -> Layout:
    table = TableSettings(
        rows=sum(CRITEO) // 10,
        width=39,
        lookups=1,
        exact_below=0,
        multiplexed=multiplexed,
        hash_seed=hash_seed,
    )
    feature_set = FeatureSet.build(None, FeaturesSettings(categorical=list(keys)), {}, table)
    return build_layout(feature_set, _Seen(keys), table)


class _Seen:
    """The statistics of features of which only the cardinality is known."""

    def __init__(self, keys: dict[str, np.ndarray]) -> None:
        self.categorical = {
            name: CategoricalStatistics(
                cardinality=len(values),
                key_class="int",
                rows=len(values),
                null_count=0,
                num_values=len(values),
            )
            for name, values in keys.items()
        }
        self.dense: dict[str, Any] = {}


if __name__ == "__main__":
    main()
