import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.collisions import forecast, mean_co_residents, measured_collisions
from features.columns import table_keys
from features.errors import ConfigError, DataError, PlanError
from features.parquet import open_dataset
from features.profile import build_profile
from features.routing import KeyBatch, KeyColumn, Layout
from features.schema import FeatureSet
from features.settings import DataSettings, FeatureSettings, FeaturesSettings, TableSettings
from tests.features.statistics_of import Seen, counted, edged, known
from trainer.representations.budget import apportion
from trainer.representations.registry import build_layout

# Vocabulary sizes of Criteo's 26 features after pruning (Unified Embedding, Table 4).
CRITEO = [
    *(676, 533, 17447, 19995, 180, 13, 9693, 337, 3, 14637, 4378, 17795, 3067),
    *(26, 6504, 18679, 10, 3102, 1557, 3, 18230, 10, 14, 13079, 56, 10581),
]


def declare(table, feature=None, **features):
    return FeatureSet.build(
        None,
        FeaturesSettings(**features),
        {name: FeatureSettings(**settings) for name, settings in (feature or {}).items()},
        table,
    )


def layout_of(seen, feature=None, table=None, **features):
    settings = TableSettings(**({"rows": 1000, "width": 4, "lookups": 1} | (table or {})))
    return build_layout(declare(settings, feature, **features), seen, settings)


def regions_of(layout):
    return {one.name: (one.kind, one.base, one.rows) for one in layout.regions}


def test_multiplexed_features_share_one_region_behind_which_exact_ones_stand():
    seen = Seen({"user": counted(5000), "item": counted(300), "gender": known([0, 1])})

    layout = layout_of(seen, categorical=["user", "gender", "item"])

    assert regions_of(layout) == {
        "shared": ("shared", 0, 996),
        "exact:gender": ("exact", 996, 4),
    }
    assert [route.region for route in layout.routes] == ["shared", "exact:gender", "shared"]
    assert layout.rows == 1000
    assert layout["gender"].vocabulary.tolist() == [0, 1]


def test_the_budget_is_spent_to_the_last_whole_row():
    layout = layout_of(
        Seen({"user": counted(5000)}),
        table={"budget": "1.6 MB", "rows": None, "width": 30},
        categorical=["user"],
    )

    assert layout.rows == 1_600_000 // 120
    assert 0 <= 1_600_000 - layout.rows * 120 < 120


def test_only_vocabularies_up_to_exact_below_are_exact():
    seen = Seen({"a": known(range(64)), "b": known(range(65)), "c": counted(9)})

    layout = layout_of(seen, categorical=["a", "b", "c"])
    without = layout_of(seen, table={"exact_below": 0}, categorical=["a", "b", "c"])
    all_null = layout_of(Seen({"a": known([])}), table={"exact_below": 0}, categorical=["a"])

    assert list(regions_of(layout)) == ["shared", "exact:a"]
    assert list(regions_of(without)) == ["shared"]
    assert list(regions_of(all_null)) == ["shared"]


def test_a_feature_may_say_itself_whether_it_is_exact():
    seen = Seen({"a": known(range(500)), "b": known(range(3))})

    layout = layout_of(
        seen,
        feature={"a": {"exact": True, "lookups": 1}, "b": {"exact": False}},
        categorical=["a", "b"],
    )

    assert regions_of(layout) == {"shared": ("shared", 0, 498), "exact:a": ("exact", 498, 502)}


def test_ranges_of_features_are_in_proportion_to_their_cardinality():
    seen = Seen({"a": counted(700), "b": counted(300), "c": counted(1)})

    layout = layout_of(seen, table={"multiplexed": False}, categorical=["a", "b", "c"])

    assert regions_of(layout) == {
        "feature:a": ("feature", 0, 697),
        "feature:b": ("feature", 697, 298),
        "feature:c": ("feature", 995, 5),
    }


def test_one_feature_may_have_a_region_of_its_own_in_a_multiplexed_table_and_the_reverse():
    seen = Seen({"a": counted(100), "b": counted(100), "c": counted(200)})
    names = ["a", "b", "c"]

    own = layout_of(seen, feature={"c": {"multiplexed": False}}, categorical=names)
    shared = layout_of(
        seen,
        feature={"a": {"multiplexed": True}, "b": {"multiplexed": True}},
        table={"multiplexed": False},
        categorical=names,
    )

    expected = {"shared": ("shared", 0, 500), "feature:c": ("feature", 500, 500)}
    assert regions_of(own) == regions_of(shared) == expected


def test_features_that_share_rows_are_in_one_region_with_all_their_values():
    seen = Seen(
        {"item": known([1, 2, 3]), "history": known([3, 4]), "user": counted(100)},
    )

    layout = layout_of(
        seen,
        feature={"history": {"shares": "item"}},
        categorical=["item", "user"],
        sequence=["history"],
    )

    assert layout["item"].region == layout["history"].region == "exact:item"
    assert layout["item"].vocabulary.tolist() == [1, 2, 3, 4]
    assert layout["history"].vocabulary is layout["item"].vocabulary


def test_features_that_share_rows_are_hashed_when_one_vocabulary_is_unknown():
    seen = Seen({"item": known([1, 2, 3]), "history": counted(10**6)})

    layout = layout_of(
        seen, feature={"history": {"shares": "item"}}, categorical=["item"], sequence=["history"]
    )

    one, other = layout["item"].lookups[0], layout["history"].lookups[0]
    assert layout["item"].region == layout["history"].region == "shared"
    assert (one.salt, one.null_salt) == (other.salt, other.null_salt)


def test_features_of_two_key_classes_cannot_share_rows():
    seen = Seen({"item": counted(9), "history": counted(9, "string")})

    with pytest.raises(DataError, match='"history" shares the rows of "item"'):
        layout_of(
            seen, feature={"history": {"shares": "item"}}, categorical=["item"], list=["history"]
        )


def test_a_column_of_nulls_shares_with_both_classes():
    seen = Seen({"item": counted(0, None), "history": counted(9, "string")})

    layout = layout_of(
        seen, feature={"history": {"shares": "item"}}, categorical=["item"], list=["history"]
    )

    assert layout.key_classes == {"item": None, "history": "string"}


def test_buckets_take_their_edges_from_the_data():
    seen = Seen({"age": known(range(3))}, {"age": edged(10.0, 20.0)})

    layout = layout_of(seen, feature={"age": {"bucketize": 4}}, dense=["age"])

    assert layout.edges == {"age": (10.0, 20.0)}
    assert layout["age"].region == "exact:age"


def test_the_method_exact_gives_every_value_its_rows_whatever_the_table_says():
    seen = Seen({"a": known(range(1000)), "b": known(range(2))})

    layout = layout_of(
        seen, table={"method": "exact", "rows": None, "lookups": 2}, categorical=["a", "b"]
    )

    assert regions_of(layout) == {
        "exact:a": ("exact", 0, 2004),
        "exact:b": ("exact", 2004, 8),
    }


def test_the_method_exact_stays_below_a_budget_where_one_is_given():
    seen = Seen({"a": known(range(10))})

    enough = layout_of(seen, table={"method": "exact", "rows": 12}, categorical=["a"])

    assert enough.rows == 12
    with pytest.raises(PlanError, match=r"need 12 rows \(192 bytes at width 4\).*have 11"):
        layout_of(seen, table={"method": "exact", "rows": 11}, categorical=["a"])


def test_a_table_of_exact_features_alone_is_as_large_as_they_are():
    seen = Seen({"a": known(range(3))})

    layout = layout_of(seen, categorical=["a"])
    unbounded = layout_of(seen, table={"rows": None}, categorical=["a"])

    assert layout.rows == unbounded.rows == 5


def test_without_statistics_features_are_hashed_together():
    layout = layout_of(None, categorical=["a", "b"])

    assert regions_of(layout) == {"shared": ("shared", 0, 1000)}
    assert layout.key_classes == {"a": None, "b": None}


def test_the_hash_seed_changes_rows_and_the_run_seed_is_no_part_of_them():
    seen = Seen({"a": counted(100)})

    salts = [
        layout_of(seen, table={"hash_seed": seed}, categorical=["a"])["a"].lookups[0].salt
        for seed in (0, 0, 1)
    ]

    assert salts[0] == salts[1] != salts[2]


SMALL = {"a": known(range(60)), "b": counted(500)}
REFUSED = {
    "neither budget nor rows": (
        {"table": {"rows": None}, "categorical": ["b"]},
        ConfigError,
        "neither table.budget nor table.rows",
        "64 MiB",
    ),
    "both budget and rows": (
        {"table": {"budget": "1 MB"}, "categorical": ["b"]},
        ConfigError,
        'table.budget is "1 MB" and table.rows is 1000',
        "give one of them",
    ),
    "budget below one row": (
        {"table": {"budget": "15 B", "rows": None}, "categorical": ["b"]},
        PlanError,
        'table.budget is "15 B", less than one row of width 4 (16 bytes)',
        "raise table.budget or lower table.width",
    ),
    "fewer rows than lookups": (
        {"table": {"rows": 2, "lookups": 3}, "categorical": ["b"]},
        PlanError,
        '2 rows are left for the 1 hashed features ("b"), which need at least 3: "b" reads 3',
        "at least 16 bytes",
    ),
    "ranges of five rows do not fit": (
        {"table": {"rows": 9, "multiplexed": False, "exact_below": 0}, "categorical": ["a", "b"]},
        PlanError,
        "which need at least 10: a range of its own has at least 5",
        "at least 16 bytes",
    ),
    "exact rows alone exceed the budget": (
        {"table": {"rows": 50}, "categorical": ["a", "b"]},
        PlanError,
        'the exact rows of "a" need 62 rows, more than the 50 of the table',
        'raise table.budget above "992 B", or lower table.exact_below (it is 64; a has 60 values)',
    ),
    "exact rows leave nothing": (
        {"table": {"rows": 62}, "categorical": ["a", "b"]},
        PlanError,
        "all the 62 of the table",
        "lower table.width (it is 4)",
    ),
    "exact by wish exceeds the budget": (
        {"table": {"rows": 9}, "feature": {"a": {"exact": True}}, "categorical": ["a"]},
        PlanError,
        "more than the 9",
        "remove feature.a.exact (60 values)",
    ),
    "exact without a vocabulary": (
        {"feature": {"b": {"exact": True}}, "categorical": ["b"]},
        PlanError,
        'feature "b" is to be exact, but its profile holds no vocabulary of its 500 values',
        "profile the data",
    ),
    "method exact without a vocabulary": (
        {"table": {"method": "exact"}, "categorical": ["a", "b"]},
        PlanError,
        'feature "b" is to be exact',
        "hash the feature",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_is_refused_with_numbers(case):
    settings, error, what, fix = REFUSED[case]

    with pytest.raises(error) as refused:
        layout_of(Seen(SMALL), **settings)

    assert what in refused.value.what
    assert fix in refused.value.fix


@pytest.mark.parametrize(
    "settings",
    [
        {"feature": {"a": {"exact": True}}, "categorical": ["a"]},
        {"feature": {"a": {"multiplexed": False}}, "categorical": ["a"]},
        {"feature": {"a": {"bucketize": 4}}, "dense": ["a"]},
        {"table": {"method": "exact"}, "categorical": ["a"]},
    ],
)
def test_what_needs_statistics_says_so(settings):
    with pytest.raises(PlanError, match="give the statistics of a profile"):
        layout_of(None, **settings)


@given(
    weights=st.lists(st.integers(1, 10**6), min_size=1, max_size=20),
    floor=st.integers(1, 9),
    spare=st.integers(0, 10**7),
)
def test_shares_add_up_reach_their_floors_and_follow_the_weights(weights, floor, spare):
    floors = [floor] * len(weights)
    num_rows = sum(floors) + spare

    shares = apportion(num_rows, weights, floors)

    assert sum(shares) == num_rows
    assert min(shares) >= floor
    above = [i for i in range(len(weights)) if shares[i] > floor]
    left = num_rows - floor * (len(weights) - len(above))
    total = sum(weights[i] for i in above)
    for i in above:
        # A share at its floor may have been due a fraction more: one row for each such feature.
        assert abs(shares[i] - left * weights[i] / total) <= len(weights)


def test_the_largest_remainders_get_the_rows_that_fractions_leave():
    assert apportion(10, [1, 1, 1], [1, 1, 1]) == [4, 3, 3]
    assert apportion(100, [335, 333, 332], [1, 1, 1]) == [34, 33, 33]
    assert apportion(20, [1000, 1, 1], [5, 5, 5]) == [10, 5, 5]
    assert apportion(0, [], []) == []


@pytest.mark.parametrize(("multiplexed", "co_residents"), [(False, 10.0), (True, 0.93)])
def test_criteo_at_a_tenth_has_the_co_residents_of_the_paper(multiplexed, co_residents):
    names = [f"C{i + 1}" for i in range(26)]
    seen = Seen({name: counted(size) for name, size in zip(names, CRITEO, strict=True)})
    table = {"rows": sum(CRITEO) // 10, "exact_below": 0, "multiplexed": multiplexed}

    layout = layout_of(seen, table=table, categorical=names)
    expected = forecast(layout, dict(zip(names, CRITEO, strict=True)))
    rng = np.random.default_rng(0)
    measured = [
        measured_collisions(layout, name, rng.integers(0, 2**64, size, dtype=np.uint64))
        for name, size in zip(names, CRITEO, strict=True)
    ]

    assert sum(CRITEO) == 160_605
    assert mean_co_residents(expected) == pytest.approx(co_residents, rel=0.02)
    assert mean_co_residents(measured) == pytest.approx(co_residents, rel=0.02)


def test_a_profile_of_real_rows_lays_out_every_kind_and_routes_the_rows_it_saw(tmp_path):
    count = 2000
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "user": rng.integers(0, 500, count),
            "gender": pa.array(rng.choice(["f", "m"], count), mask=rng.random(count) < 0.1),
            "history": [[int(i) % 7] * (i % 4) if i % 5 else None for i in range(count)],
            "item": rng.integers(0, 7, count),
            "age": pa.array(rng.normal(size=count), mask=rng.random(count) < 0.1),
            "click": rng.integers(0, 2, count),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    settings = TableSettings(rows=400, width=4)
    feature_set = FeatureSet.build(
        DataSettings(train="rows.parquet", label="click"),
        FeaturesSettings(
            categorical=["user", "gender", "item"],
            sequence=["history"],
            dense=["age"],
            cross={"user_gender": ["user", "gender"]},
        ),
        {
            "history": FeatureSettings(shares="item", pooling="last"),
            "age": FeatureSettings(bucketize=8),
        },
        settings,
    )

    profile = build_profile(open_dataset("rows.parquet", tmp_path), feature_set, settings)
    layout = build_layout(feature_set, profile, settings)
    keys = table_keys(table, feature_set, "f", edges=layout.edges, key_classes=layout.key_classes)
    routed = layout.route(KeyBatch(count, keys, None, None, np.empty((count, 0), np.float32)))

    # Values, the unseen one and null, two lookups each.
    exact = {"gender": (2 + 2) * 2, "item": (7 + 2) * 2, "age": (8 + 2) * 2}
    assert {one.name.removeprefix("exact:"): one.rows for one in layout.regions[1:]} == exact
    assert layout.rows == 400
    for name in exact:
        column = keys[name]
        present = column.keys if column.nulls is None else column.keys[column.nulls == 0]
        assert set(present.tolist()) == set(layout[name].vocabulary.tolist())
    shared = layout.regions[0].rows
    hashed = np.isin(routed.columns // 8, [0, 4])
    assert (routed.rows[hashed] < shared).all()
    assert (routed.rows[~hashed] >= shared).all()
    assert routed.rows.min() >= 0
    assert routed.rows.max() < layout.rows
    (bag,) = routed.bags
    assert bag.rows.min() >= layout["item"].base
    assert bag.rows.max() < layout["item"].base + exact["item"]


METHODS = ["unified", "hash_embedding", "pq", "qr", "hashednet", "robe", "dhe", "tt"]
CARDINALITIES = {"user": 900, "item": 300, "city": 90}


def numbered():
    return Seen({name: known(range(7, 7 + n)) for name, n in CARDINALITIES.items()})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("multiplexed", [True, False])
def test_every_method_stays_inside_its_bytes_and_reads_back_from_json(method, multiplexed):
    table = {"budget": "40 kB", "rows": None, "width": 12, "lookups": 2, "method": method}
    table |= {"multiplexed": multiplexed, "exact_below": 100}

    layout = layout_of(numbered(), table=table, categorical=list(CARDINALITIES))

    assert 0.5 * 40_000 < 4 * layout.rows * layout.width <= 40_000
    kinds = {region.name.split(":")[0] for region in layout.regions}
    assert "exact" in kinds
    assert ("shared" in kinds) == multiplexed
    again = Layout.from_json(layout.to_json(), layout.vocabularies())
    assert again.to_json() == layout.to_json()
    column = KeyColumn(np.arange(2000, dtype=np.uint64), np.zeros(2000, np.uint8))
    for name in CARDINALITIES:
        rows = layout.rows_of(name, column)
        assert (rows == again.rows_of(name, column)).all()
        assert rows.min() >= 0
        assert rows.max() < layout.rows


@pytest.mark.parametrize("method", ["qr", "tt"])
def test_methods_of_digits_tell_all_values_apart(method):
    table = {"budget": "40 kB", "rows": None, "width": 12, "lookups": 2, "method": method}
    layout = layout_of(numbered(), table=table, categorical=list(CARDINALITIES))

    for name, count in CARDINALITIES.items():
        values = KeyColumn(np.arange(7, 7 + count, dtype=np.uint64))
        assert len(np.unique(layout.rows_of(name, values), axis=1).T) == count


@pytest.mark.parametrize(
    ("method", "budget", "multiplexed", "why"),
    [
        ("qr", "2 kB", True, "numbers of 2 digits need at least"),
        ("qr", "4 kB", False, "numbers of 2 digits need at least"),
        ("tt", "400 B", True, "a tensor train of rank 1"),
        ("dhe", "500 B", True, "networks over 128 hashes need at least"),
        ("hash_embedding", "300 B", False, "a range of its own has at least 5"),
    ],
)
def test_a_budget_a_method_cannot_live_on_is_refused_and_never_enlarged(
    method, budget, multiplexed, why
):
    table = {"budget": budget, "rows": None, "width": 12, "lookups": 2, "method": method}
    table |= {"multiplexed": multiplexed, "exact_below": 0}

    with pytest.raises(PlanError, match=why):
        layout_of(numbered(), table=table, categorical=list(CARDINALITIES))


def test_the_tables_of_pq_never_meet():
    table = {"width": 4, "lookups": 3, "method": "pq", "exact_below": 0}
    layout = layout_of(numbered(), table=table, categorical=list(CARDINALITIES))

    rows = layout.rows_of("user", KeyColumn(np.arange(3000, dtype=np.uint64)))

    bounds = [layout.regions[0].part(k) for k in range(3)]
    assert [size for _, size in bounds] == [334, 333, 333]
    for k, (first, size) in enumerate(bounds):
        assert rows[k].min() >= first
        assert rows[k].max() < first + size
