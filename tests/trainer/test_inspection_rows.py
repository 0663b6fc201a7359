import numpy as np
import pytest

from features.schema import FeatureSet
from features.settings import FeaturesSettings, TableSettings
from tests.features.statistics_of import Seen, counted, known
from trainer.inspection_collisions import RowCounts
from trainer.inspection_rows import measure_norms, region_uses, shard_loads
from trainer.representations.registry import build_layout

TABLE = TableSettings(rows=100, width=4, exact_below=20)
SEEN = Seen({"user": counted(500), "city": known(range(10))})
LAYOUT = build_layout(
    FeatureSet.build(None, FeaturesSettings(categorical=["user", "city"]), {}, TABLE), SEEN, TABLE
)


def counts(seed: int = 0) -> RowCounts:
    rng = np.random.default_rng(seed)
    reads = rng.integers(0, 4, LAYOUT.rows) * rng.integers(0, 1000, LAYOUT.rows)
    return RowCounts(reads=reads, residents=(reads % 40).astype(np.int32))


def test_reads_of_the_hottest_rows_are_those_of_the_sorted_ones() -> None:
    reads = counts().reads
    shared, exact = LAYOUT.regions

    uses = region_uses(LAYOUT, counts())

    for use, region in zip(uses, (shared, exact), strict=True):
        own = sorted(reads[region.base : region.base + region.rows], reverse=True)
        top = own[: max(1, round(0.1 * region.rows))]
        assert use.used == sum(count > 0 for count in own)
        assert use.top_reads[-1] == pytest.approx(sum(top) / sum(own))
        assert use.curve[-1] == (1.0, 1.0)
        assert list(use.curve) == sorted(use.curve)
    assert [use.kind for use in uses] == ["shared", "exact"]


def test_shards_are_loaded_with_the_reads_of_their_rows() -> None:
    reads = counts().reads

    loads = shard_loads(LAYOUT, counts(), (1, 3, 1000))

    assert [load.world_size for load in loads] == [1, 3]
    assert (loads[0].largest, loads[0].smallest) == (1.0, 1.0)
    size = -(-LAYOUT.rows // 3)
    shares = np.array([reads[i : i + size].sum() for i in (0, size, 2 * size)]) / reads.sum() * 3
    assert (loads[1].largest, loads[1].smallest) == pytest.approx((shares.max(), shares.min()))


def test_norms_are_binned_by_reads_and_by_residents() -> None:
    rows = np.random.default_rng(1).normal(size=(LAYOUT.rows, 4)).astype(np.float32)
    found = counts()
    hashed = LAYOUT.regions[0].rows
    squared = (rows[:hashed].astype(np.float64) ** 2).sum(1)

    norms = measure_norms(LAYOUT, found, lambda first, end: rows[first:end], 0.05)

    assert norms.mean_squared == pytest.approx(squared.mean(), rel=1e-6)
    assert norms.initial_squared == pytest.approx(4 * 0.05**2 / 3)
    for bins, falls in ((norms.by_reads, found.reads), (norms.by_residents, found.residents)):
        falls = falls[:hashed]
        assert sum(each.rows for each in bins) == hashed
        for each in bins:
            inside = (falls >= each.low) & (falls <= each.high)
            assert each.rows == inside.sum()
            assert each.mean == pytest.approx(falls[inside].mean())
            assert each.squared == pytest.approx(squared[inside].mean(), rel=1e-5)
            assert each.norms[1] == pytest.approx(np.median(np.sqrt(squared[inside])), rel=1e-5)
    assert norms.by_residents[1].low == norms.by_residents[1].high


def test_rows_that_nothing_reads_have_a_norm_and_no_use() -> None:
    nothing = RowCounts(
        reads=np.zeros(LAYOUT.rows, np.int64), residents=np.zeros(LAYOUT.rows, np.int32)
    )
    rows = np.ones((LAYOUT.rows, 4), np.float32)

    norms = measure_norms(LAYOUT, nothing, lambda first, end: rows[first:end], None)

    assert region_uses(LAYOUT, nothing) == ()
    assert [each.squared for each in norms.by_reads] == [4.0]
    assert norms.initial_squared is None
