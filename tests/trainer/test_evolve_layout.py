import numpy as np
import pytest

from features.batches import KeyColumn
from features.errors import PlanError
from features.routing import Layout
from features.settings import TableSettings
from tests.features.statistics_of import Seen, counted, known
from tests.trainer.test_representations import declare, regions_of
from trainer.evolve_layout import evolved_layout, unused_rows
from trainer.representations.registry import build_layout

SEEN = Seen(
    {
        "user": counted(5000),
        "item": counted(300),
        "city": counted(800),
        "gender": known([0, 1]),
        "day": known(range(7)),
        "history": counted(300),
    }
)


def settings(**table):
    return TableSettings(**({"rows": 1000, "width": 4, "lookups": 2} | table))


def evolve(recorded: Layout, feature=None, table=None, **features) -> Layout:
    chosen = settings(**(table or {}))
    return evolved_layout(declare(chosen, feature, **features), SEEN, chosen, recorded)


def fresh(feature=None, table=None, **features) -> Layout:
    chosen = settings(**(table or {}))
    return build_layout(declare(chosen, feature, **features), SEEN, chosen)


def test_a_new_multiplexed_feature_joins_the_shared_region_and_moves_nobody():
    old = fresh(categorical=["user", "gender"])

    new = evolve(old, categorical=["item", "user", "gender"])

    assert regions_of(new) == regions_of(old)
    assert new["item"].region == "shared"
    keys = KeyColumn(np.arange(500, dtype=np.uint64))
    for name in ("user", "gender"):
        assert np.array_equal(new.rows_of(name, keys), old.rows_of(name, keys))
    # Its place among the columns is that of the job.
    assert [route.column for route in new.routes] == [0, 8, 16]


def test_without_changes_it_is_the_recorded_layout():
    old = fresh(categorical=["user", "gender"], table={"multiplexed": False})

    new = evolve(old, categorical=["user", "gender"], table={"multiplexed": False})

    assert new.to_json() == old.to_json()


def test_new_exact_rows_stand_behind_the_recorded_ones_where_the_budget_has_room():
    old = fresh(categorical=["user", "gender"])

    new = evolve(old, categorical=["user", "day", "gender"], table={"rows": 1018})

    assert regions_of(new) == {
        **regions_of(old),
        "exact:day": ("exact", 1000, 18),
    }
    with pytest.raises(
        PlanError, match=r"at least 1,018 rows of width 4, and the job allows 1,000"
    ):
        evolve(old, categorical=["user", "day", "gender"])


def test_a_new_feature_with_rows_of_its_own_gets_what_the_budget_leaves():
    old = fresh(categorical=["user", "item", "gender"], table={"multiplexed": False})

    new = evolve(
        old,
        categorical=["user", "item", "city", "gender"],
        table={"multiplexed": False, "rows": 1300},
    )

    before, after = regions_of(old), regions_of(new)
    assert after["feature:user"] == before["feature:user"]
    assert after["feature:item"] == before["feature:item"]
    assert after["feature:city"] == ("feature", 992, 300)
    assert after["exact:gender"] == ("exact", 1292, 8)
    keys = KeyColumn(np.arange(4, dtype=np.uint64))
    moved = new.rows_of("gender", keys) - old.rows_of("gender", keys)
    assert np.array_equal(moved, np.full((2, 4), 300))


def test_a_dropped_feature_leaves_its_region_and_finds_it_again():
    table = {"multiplexed": False}
    old = fresh(categorical=["user", "item", "gender"], table=table)

    without = evolve(old, categorical=["user"], table=table)
    again = evolve(without, categorical=["user", "item"], table=table)

    before = regions_of(old)
    assert regions_of(without) == {name: before[name] for name in ("feature:user", "feature:item")}
    assert [route.name for route in without.routes] == ["user"]
    # Manifests hold it, though no feature reads it.
    assert Layout.from_json(without.to_json(), without.vocabularies()).rows == without.rows
    keys = KeyColumn(np.arange(500, dtype=np.uint64))
    assert np.array_equal(again.rows_of("item", keys), old.rows_of("item", keys))


def test_a_feature_that_shares_rows_reads_those_of_its_kept_owner():
    old = fresh(categorical=["user", "item"])

    new = evolve(
        old,
        categorical=["user", "item"],
        sequence=["history"],
        feature={"history": {"shares": "item"}},
    )

    keys = KeyColumn(np.arange(100, dtype=np.uint64), None, np.array([0, 100]))
    assert np.array_equal(new.rows_of("history", keys), old.rows_of("item", keys))


@pytest.mark.parametrize("method", ["hash_embedding", "hashednet", "robe", "dhe"])
def test_methods_with_readers_carry_on(method: str):
    table = {"method": method, "rows": 3000, "multiplexed": True}
    old = fresh(categorical=["user", "gender"], table=table)

    new = evolve(old, categorical=["city", "user", "gender"], table=table)
    more = evolve(old, categorical=["user", "day", "gender"], table={**table, "rows": 4000})

    assert regions_of(new) == regions_of(old)
    assert new["city"].width_total == new["user"].width_total
    assert more["day"].width_total == more["gender"].width_total
    keys = KeyColumn(np.arange(100, dtype=np.uint64))
    for layout in (new, more):
        assert np.array_equal(layout.rows_of("user", keys), old.rows_of("user", keys))
        assert Layout.from_json(layout.to_json(), layout.vocabularies()).rows == layout.rows


def test_a_table_that_numbers_its_values_takes_no_new_hashed_feature():
    seen = Seen({"user": known(range(100)), "city": known(range(300)), "day": known(range(7))})
    chosen = settings(method="qr", rows=200)
    old = build_layout(declare(chosen, categorical=["user"]), seen, chosen)

    with pytest.raises(PlanError, match="no numbers left"):
        evolved_layout(declare(chosen, categorical=["user", "city"]), seen, chosen, old)

    bigger = settings(method="qr", rows=400)
    new = evolved_layout(declare(bigger, categorical=["user", "day"]), seen, bigger, old)
    assert new["day"].vocabulary is not None
    assert np.array_equal(new["user"].reader.vocabulary, old["user"].reader.vocabulary)


def test_hot_and_common_rows_stay_with_their_feature():
    from features.heavy import HeavyHitters

    seen = Seen({"user": counted(5000), "item": counted(300)})
    popular = HeavyHitters(
        keys=np.arange(50, dtype=np.uint64), counts=np.arange(50, 0, -1), error=0
    )
    for name in seen.categorical:
        object.__setattr__(seen.categorical[name], "popular", popular)
    chosen = settings(hot_rows=0.1)
    old = build_layout(declare(chosen, categorical=["user", "item"]), seen, chosen)

    without = evolved_layout(declare(chosen, categorical=["user"]), seen, chosen, old)

    assert "hot" in {region.kind for region in old.regions}
    keys = KeyColumn(np.arange(60, dtype=np.uint64))
    hot = [one.name for one in without.regions if one.kind == "hot"]
    assert [without["user"].popular.hot.region] == hot
    shift = without["user"].popular.hot_base - old["user"].popular.hot_base
    rows, before = without.rows_of("user", keys), old.rows_of("user", keys)
    is_hot = before >= old["user"].popular.hot_base
    assert np.array_equal(rows - before, np.where(is_hot, shift, 0))


def test_rows_that_the_budget_allows_and_the_table_lacks_are_counted():
    old = fresh(categorical=["user", "gender"])

    new = evolve(old, categorical=["user", "gender"], table={"rows": 1500})

    assert new.rows == 1000
    assert unused_rows(settings(rows=1500), new) == 500
