from collections import defaultdict

import numpy as np
import pytest

from features.batches import KeyColumn
from features.collisions import measured_collisions
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeaturesSettings, TableSettings
from tests.features.statistics_of import Seen, counted, known
from trainer.inspection_collisions import FeatureCollisions, count_collisions, count_rows
from trainer.inspection_values import Values
from trainer.representations.registry import build_layout

# Vocabulary sizes of Criteo's 26 features after pruning (Unified Embedding, Table 4).
CRITEO = [
    *(676, 533, 17447, 19995, 180, 13, 9693, 337, 3, 14637, 4378, 17795, 3067),
    *(26, 6504, 18679, 10, 3102, 1557, 3, 18230, 10, 14, 13079, 56, 10581),
]


def layout_of(cardinality: dict[str, int], **table: object) -> Layout:
    settings = TableSettings.model_validate({"rows": 60, "width": 4, "exact_below": 0, **table})
    needs_all = settings.method in ("qr", "tt", "exact")
    seen = Seen({n: known(range(c)) if needs_all else counted(c) for n, c in cardinality.items()})
    names = FeaturesSettings(categorical=list(cardinality))
    return build_layout(FeatureSet.build(None, names, {}, settings), seen, settings)


def values_of(cardinality: dict[str, int], seed: int = 0) -> dict[str, Values]:
    rng = np.random.default_rng(seed)
    return {
        name: Values(
            column=KeyColumn(np.arange(count, dtype=np.uint64)), reads=rng.integers(1, 50, count)
        )
        for name, count in cardinality.items()
    }


def collisions(layout: Layout, values: dict[str, Values]) -> dict[str, FeatureCollisions]:
    found = count_collisions(layout, values, count_rows(layout, values))
    return {one.feature: one for one in found}


@pytest.mark.parametrize("multiplexed", [True, False])
def test_collisions_are_those_counted_value_by_value(multiplexed) -> None:
    cardinality = {"user": 40, "item": 25}
    layout = layout_of(cardinality, lookups=2, multiplexed=multiplexed)
    values = values_of(cardinality)

    found = collisions(layout, values)

    residents = defaultdict(list)
    for name, seen in values.items():
        rows = layout.rows_of(name, seen.column)
        for k, value in np.ndindex(rows.shape):
            residents[rows[k, value]].append((name, k, value))
    for name, seen in values.items():
        rows, one = layout.rows_of(name, seen.column), found[name]
        within, across = np.zeros(rows.shape), np.zeros(rows.shape)
        shares = np.zeros((3, *rows.shape))
        twins = np.zeros(len(seen.reads), bool)
        for k, value in np.ndindex(rows.shape):
            others = [each for each in residents[rows[k, value]] if each != (name, k, value)]
            same = [each for each in others if each[:2] == (name, k)]
            reads = [values[each[0]].reads[each[2]] for each in others]
            of_same = sum(values[name].reads[each[2]] for each in same)
            total = sum(reads) + seen.reads[value]
            within[k, value], across[k, value] = len(same), len(others) - len(same)
            shares[:, k, value] = [seen.reads[value], of_same, sum(reads) - of_same] / total
            is_twin = (rows == rows[:, value : value + 1]).all(axis=0)
            twins[value] = is_twin.sum() > 1
        weight = seen.reads / seen.reads.sum()
        assert one.within.values == pytest.approx(within.mean())
        assert one.within.reads == pytest.approx((within.mean(0) * weight).sum())
        assert one.across.values == pytest.approx(across.mean())
        assert one.across.reads == pytest.approx((across.mean(0) * weight).sum())
        assert one.in_one_lookup.values == pytest.approx((within > 0).mean())
        assert one.in_all_lookups.values == pytest.approx((within > 0).all(0).mean())
        assert one.in_all_lookups.reads == pytest.approx(((within > 0).all(0) * weight).sum())
        assert one.merged.values == pytest.approx(twins.mean())
        measured = (one.own_reads, one.within_reads, one.across_reads)
        assert measured == pytest.approx((shares.mean(1) * weight).sum(1))
        assert sum(measured) == pytest.approx(1)


def test_they_agree_with_what_the_report_of_a_run_counts() -> None:
    cardinality = {"user": 300, "item": 100}
    layout = layout_of(cardinality, rows=200, lookups=2)
    values = values_of(cardinality)

    found = collisions(layout, values)

    for name, seen in values.items():
        same = measured_collisions(layout, name, seen.column.keys)
        assert found[name].within.values == pytest.approx(same.co_residents)
        assert found[name].in_all_lookups.values == pytest.approx(same.in_all_lookups)


def test_criteos_vocabularies_collide_as_the_paper_has_it() -> None:
    cardinality = {f"C{i + 1}": count for i, count in enumerate(CRITEO)}
    values = values_of(cardinality)
    rows = round(0.1 * sum(CRITEO))

    together = collisions(layout_of(cardinality, rows=rows, lookups=1), values).values()
    apart = collisions(
        layout_of(cardinality, rows=rows, lookups=1, multiplexed=False), values
    ).values()

    for found, expected in ((together, 0.93), (apart, 10.0)):
        mean = sum(one.values * one.within.values for one in found) / sum(CRITEO)
        assert mean == pytest.approx(expected, rel=0.03)
        forecast = sum(one.values * one.within.forecast for one in found) / sum(CRITEO)
        assert mean == pytest.approx(forecast, rel=0.03)
    crowd = sum(one.values * one.across.values for one in together) / sum(CRITEO)
    assert crowd == pytest.approx(10 - 0.93, rel=0.03)
    assert all(one.across.values == 0 for one in apart)


@pytest.mark.parametrize("method", ["pq", "hash_embedding", "hashednet", "robe"])
def test_methods_that_hash_have_the_collisions_of_their_hash_functions(method) -> None:
    cardinality = {"user": 3000, "item": 2000}
    layout = layout_of(cardinality, method=method, rows=4000, width=8, lookups=2)
    values = values_of(cardinality)

    found = collisions(layout, values)

    for one in found.values():
        assert one.num_lookups == len(layout[one.feature].lookups)
        assert one.within.values == pytest.approx(one.within.forecast, rel=0.1)
        assert one.across.values == pytest.approx(one.across.forecast, rel=0.1)


@pytest.mark.parametrize("method", ["qr", "tt", "dhe", "exact"])
def test_methods_that_tell_all_values_apart_have_none(method) -> None:
    cardinality = {"user": 300, "item": 200}
    layout = layout_of(cardinality, method=method, width=8, lookups=2, rows=None, budget="200 kB")
    values = values_of(cardinality)

    counts = count_rows(layout, values)

    assert count_collisions(layout, values, counts) == ()
    read_each = {name: len(layout.rows_of(name, seen.column)) for name, seen in values.items()}
    expected = sum(seen.total * read_each[name] for name, seen in values.items())
    assert counts.reads.sum() == expected


def test_null_is_a_value_with_rows_of_its_own() -> None:
    layout = layout_of({"user": 30}, rows=1000)
    keys = np.zeros(2, np.uint64)
    values = {
        "user": Values(
            column=KeyColumn(keys, np.array([0, 1], np.uint8)), reads=np.array([3, 5], np.int64)
        )
    }

    counts = count_rows(layout, values)

    assert sorted(counts.reads[counts.reads > 0].tolist()) == [3, 3, 5, 5]
