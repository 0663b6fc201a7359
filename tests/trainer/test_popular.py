"""Hot rows and frequent values, from the profile to the rows, against the page's formulas."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.batches import KeyBatch, KeyColumn
from features.collisions import forecast, measured_collisions
from features.errors import ConfigError, PlanError, SnapshotError
from features.heavy import HeavyHitters
from features.parquet import open_dataset
from features.profile import Profile, build_profile
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import DataSettings, FeatureSettings, FeaturesSettings, TableSettings
from features.statistics import CategoricalStatistics
from tests.features import reference
from tests.features.statistics_of import Seen, counted, known
from trainer.representations.registry import build_layout

CLICKS = DataSettings(train="train.parquet", label="click")


def frequent(counts, key_class="int"):
    """A feature whose values were seen so often."""
    keys = np.array(sorted(counts), np.uint64)
    return CategoricalStatistics(
        cardinality=5000,
        key_class=key_class,
        rows=10**6,
        null_count=0,
        num_values=10**6,
        popular=HeavyHitters(
            keys=keys, counts=np.array([counts[int(key)] for key in keys]), error=0
        ),
    )


SEEN = Seen(
    {
        "user": frequent({7: 900, 3: 800, 2**63: 20, 11: 10}),
        "item": frequent({4: 850, 7: 30}),
        "gender": known([0, 1]),
    }
)


def layout_of(seen=SEEN, feature=None, names=("user", "item", "gender"), **table):
    settings = TableSettings(**({"rows": 100, "width": 4, "lookups": 2} | table))
    feature_set = FeatureSet.build(
        None,
        FeaturesSettings(categorical=list(names)),
        {name: FeatureSettings(**each) for name, each in (feature or {}).items()},
        settings,
    )
    return build_layout(feature_set, seen, settings)


def regions_of(layout):
    return {one.name: (one.kind, one.base, one.rows) for one in layout.regions}


def again(layout):
    return Layout.from_json(json.loads(json.dumps(layout.to_json())), layout.vocabularies())


def test_the_most_frequent_values_of_all_features_own_rows_inside_the_budget():
    layout = layout_of(hot_rows=0.09)

    assert regions_of(layout) == {
        "shared": ("shared", 0, 84),
        "exact:gender": ("exact", 84, 8),
        "hot:user": ("hot", 92, 4),
        "hot:item": ("hot", 96, 4),
    }
    assert layout.rows == 100
    assert layout["user"].popular.hot.keys.tolist() == [3, 7]
    assert layout["item"].popular.hot.keys.tolist() == [4, 7]
    assert layout["gender"].popular is None


def test_without_the_settings_nothing_changes():
    assert "hot" not in json.dumps(layout_of().to_json())
    assert layout_of()["user"].is_hashed
    assert not layout_of(hot_rows=0.5)["user"].is_hashed


def test_a_value_with_many_lookups_costs_as_many_rows():
    layout = layout_of(feature={"user": {"lookups": 5}}, hot_rows=0.09)

    # User 7 has five rows, item 4 two; five more for user 3 are too many.
    assert regions_of(layout)["hot:user"][2] == 5
    assert regions_of(layout)["hot:item"][2] == 2


def test_others_than_frequent_values_have_all_but_one_lookup_in_common():
    layout = layout_of(feature={"item": {"lookups": 3}}, frequent_values=3)

    assert regions_of(layout) == {
        "shared": ("shared", 0, 100 - 8 - 1 - 2),
        "exact:gender": ("exact", 89, 8),
        "rare:user": ("rare", 97, 1),
        "rare:item": ("rare", 98, 2),
    }
    assert layout["user"].popular.frequent.keys.tolist() == [3, 7]
    assert layout["item"].popular.frequent.keys.tolist() == [4]


def test_a_feature_of_one_lookup_and_one_without_counts_stay_as_they_are():
    seen = Seen({**SEEN.categorical, "gender": counted(500)})

    layout = layout_of(seen, feature={"user": {"lookups": 1}}, frequent_values=3)

    assert layout["user"].popular is None
    assert layout["gender"].popular is None
    assert layout["item"].popular.frequent.keys.tolist() == [4]


VALUES = st.lists(
    st.one_of(st.none(), st.sampled_from([3, 4, 7, 11, 2**63]), st.integers(0, 2**64 - 1)),
    max_size=20,
)


def expected(layout, name, value, lookups):
    """The rows of a value, slowly, from the page."""
    regions = regions_of(layout)
    base, rows = regions["shared"][1:]
    found = reference.rows(value, name, lookups, 0, base, rows)
    popular = layout[name].popular
    if popular.frequent is not None and value not in (None, *popular.frequent.keys.tolist()):
        found[1:] = [regions[f"rare:{name}"][1] + k for k in range(lookups - 1)]
    if popular.hot is not None and value in (hot := popular.hot.keys.tolist()):
        found = [regions[f"hot:{name}"][1] + hot.index(value) * lookups + k for k in range(lookups)]
    return found


@given(VALUES, st.sampled_from([0.0, 0.04, 0.3]), st.sampled_from([None, 1, 4, 1000]))
def test_every_value_reads_the_rows_of_the_page(values, hot_rows, frequent_values):
    if not hot_rows and frequent_values is None:
        frequent_values = 2
    layout = layout_of(
        feature={"item": {"lookups": 3}}, hot_rows=hot_rows, frequent_values=frequent_values
    )
    column = KeyColumn(
        np.array([value or 0 for value in values], np.uint64),
        np.array([value is None for value in values], np.uint8),
    )
    batch = KeyBatch(
        num_rows=len(values),
        columns=dict.fromkeys(("user", "item", "gender"), column),
        matrix=None,
        null_matrix=None,
        dense=np.empty((len(values), 0), np.float32),
    )

    rows = layout.route(batch)
    read_back = again(layout).route(batch)

    assert read_back.rows.tobytes() == rows.rows.tobytes()
    for name, lookups, first in (("user", 2, 0), ("item", 3, 2)):
        if layout[name].popular is None:
            continue
        alone = layout.rows_of(name, column)
        assert alone.tolist() == rows.rows[first : first + lookups].tolist()
        for i, value in enumerate(values):
            assert alone[:, i].tolist() == expected(layout, name, value, lookups)


@pytest.mark.parametrize(
    "table",
    [{"hot_rows": 0.3}, {"frequent_values": 900}, {"hot_rows": 0.2, "frequent_values": 900}],
)
def test_forecast_collisions_are_near_those_that_are_counted(table):
    keys = np.arange(1, 3001, dtype=np.uint64)
    seen = Seen(
        {"user": replace(frequent({int(key): 9999 - int(key) for key in keys}), cardinality=3000)}
    )
    layout = layout_of(seen, names=("user",), rows=2000, **table)

    said = forecast(layout, {"user": 3000})[0]
    counted_ones = measured_collisions(layout, "user", keys)

    assert said.co_residents == pytest.approx(counted_ones.co_residents, rel=0.1)
    assert said.in_all_lookups == pytest.approx(counted_ones.in_all_lookups, rel=0.1)


def test_features_that_share_rows_are_counted_together_and_read_the_same_ones():
    seen = Seen({"user": frequent({7: 5, 3: 6}), "friend": frequent({7: 4})})
    layout = layout_of(
        seen, {"friend": {"shares": "user"}}, ("user", "friend"), hot_rows=0.02, frequent_values=1
    )
    column = KeyColumn(np.array([3, 7, 8], np.uint64))

    assert regions_of(layout)["hot:user"] == ("hot", 98, 2)
    assert layout["friend"].popular.hot.keys.tolist() == [7]
    assert (layout.rows_of("user", column) == layout.rows_of("friend", column)).all()
    assert list(layout.vocabularies()) == ["vocabulary.hot.2", "vocabulary.frequent.1"]
    assert again(layout).to_json() == layout.to_json()


@pytest.mark.parametrize("multiplexed", [True, False])
@pytest.mark.parametrize("method", ["unified", "hash", "pq"])
def test_the_methods_that_lay_rows_side_by_side_have_hot_rows(method, multiplexed):
    layout = layout_of(method=method, multiplexed=multiplexed, hot_rows=0.2)
    hot = layout.rows_of("user", KeyColumn(np.array([3, 7], np.uint64)))

    count = 1 if method == "hash" else 2
    first = regions_of(layout)["hot:user"][1]
    assert sorted(hot.T.reshape(-1).tolist())[: 2 * count] == list(range(first, first + 2 * count))
    assert layout.rows == 100
    assert again(layout).to_json() == layout.to_json()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"method": "qr", "hot_rows": 0.1}, "table.hot_rows is 0.1"),
        ({"method": "hash_embedding", "hot_rows": 0.1}, "lay rows side by side"),
        ({"method": "hash", "frequent_values": 5}, "table.frequent_values is 5"),
        ({"method": "robe", "frequent_values": 5}, "several rows side by side"),
    ],
)
def test_methods_with_readers_refuse_what_they_cannot_have(table, said):
    with pytest.raises(ConfigError, match=said):
        layout_of(**table)


def test_what_does_not_fit_is_refused_with_numbers():
    many = Seen({"user": frequent({key: 1000 - key for key in range(1, 900)})})

    with pytest.raises(PlanError, match=r"hot_rows = 0\.9\) are 90, and 2 are left") as refused:
        layout_of(
            Seen({**many.categorical, "gender": known(range(47))}),
            names=("user", "gender"),
            hot_rows=0.9,
        )
    with pytest.raises(PlanError, match="does not say"):
        layout_of(Seen({"user": counted(5000)}), names=("user",), hot_rows=0.1)
    assert "table.hot_rows" in refused.value.fix


def damaged(change):
    tree = json.loads(json.dumps(layout_of(hot_rows=0.09, frequent_values=2).to_json()))
    tensors = dict(layout_of(hot_rows=0.09, frequent_values=2).vocabularies())
    change(tree, tensors)
    return tree, tensors


@pytest.mark.parametrize(
    "change",
    [
        lambda tree, _: tree["features"][0]["hot"].update(region="shared"),
        lambda tree, _: tree["features"][0]["hot"].update(region="hot:item"),
        lambda tree, _: tree["features"][0]["frequent"].update(region="nowhere"),
        lambda tree, _: tree["features"][0]["hot"].update(vocabulary="vocabulary.9"),
        lambda tree, _: tree["features"][0].pop("hot"),
        lambda tree, _: tree["features"][2].update(hot=tree["features"][0]["hot"]),
        lambda _, tensors: tensors.update({"vocabulary.hot.4": np.array([7, 3], np.uint64)}),
        lambda _, tensors: tensors.update({"vocabulary.hot.4": np.array([3, 7], np.int64)}),
        lambda _, tensors: tensors.update({"vocabulary.hot.4": np.array([3], np.uint64)}),
        lambda _, tensors: tensors.pop("vocabulary.frequent.2"),
    ],
)
def test_a_damaged_manifest_is_refused(change):
    tree, tensors = damaged(change)

    with pytest.raises(SnapshotError):
        Layout.from_json(tree, tensors)


def clicks(folder, rows=3000):
    rng = np.random.default_rng(3)
    users = rng.zipf(1.4, rows) % 2**31
    tags = [rng.zipf(1.5, rng.integers(0, 4)).astype(np.int64).tolist() for _ in range(rows)]
    table = pa.table({"user": users, "tags": tags, "click": rng.integers(0, 2, rows)})
    pq.write_table(table, folder / "train.parquet", row_group_size=700)
    return users, [tag for each in tags for tag in each]


def profiled(folder, **table):
    settings = TableSettings(**({"rows": 400, "width": 4, "exact_below": 0} | table))
    features = FeatureSet.build(
        CLICKS, FeaturesSettings(categorical=["user"], list=["tags"]), {}, settings
    )
    dataset = open_dataset("train.parquet", folder)
    return features, settings, build_profile(dataset, features, settings)


def test_the_profile_counts_what_the_table_asks_for_and_nothing_else(tmp_path):
    users, tags = clicks(tmp_path)

    without = profiled(tmp_path)[2]
    features, settings, profile = profiled(tmp_path, hot_rows=0.2, frequent_values=30)

    assert b"popular" not in without.to_bytes()
    assert Profile.from_bytes(profile.to_bytes()).to_bytes() == profile.to_bytes()
    assert profile.to_bytes() == profiled(tmp_path, hot_rows=0.2, frequent_values=30)[2].to_bytes()
    for name, values in (("user", users), ("tags", tags)):
        popular = profile.categorical[name].popular
        found, counts = np.unique(values, return_counts=True)
        truth = dict(zip(found.tolist(), counts.tolist(), strict=True))
        assert popular.error == 0
        assert len(popular.keys) == min(80, len(truth))
        assert [truth[int(key)] for key in popular.keys] == popular.counts.tolist()
        assert popular.counts.min() >= sorted(truth.values())[-len(popular.keys)]
    layout = build_layout(features, profile, settings)
    assert {region.kind for region in layout.regions} == {"shared", "hot", "rare"}
    assert layout.rows == 400


def test_a_damaged_count_is_refused(tmp_path):
    clicks(tmp_path)
    tree = profiled(tmp_path, hot_rows=0.2)[2].to_json()
    tree["categorical"]["user"]["popular"]["error"] = -1

    with pytest.raises(SnapshotError, match="damaged"):
        Profile.from_json(tree)
