import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import features.accumulate
from features.accumulate import Moments
from features.errors import DataError, PlanError, SnapshotError
from features.hashing import cross_keys, key_of
from features.parquet import open_dataset
from features.profile import Profile, build_profile
from features.schema import FeatureSet
from features.settings import DataSettings, FeatureSettings, FeaturesSettings, TableSettings

DATA = DataSettings(train="*.parquet", label="click")
WEIGHTED = DataSettings(train="*.parquet", label="click", weight="w")


def profile(folder, columns, features, *, table=None, data=DATA, row_group_size=3, **settings):
    """The profile of one file with these columns."""
    rows = len(next(iter(columns.values())))
    content = pa.table({"click": [i % 2 for i in range(rows)]} | columns)
    pq.write_table(content, folder / "a.parquet", row_group_size=row_group_size)
    table = table or TableSettings(rows=1000)
    feature_set = FeatureSet.build(data, FeaturesSettings(**features), settings, table)
    return build_profile(open_dataset("*.parquet", folder), feature_set, table)


def test_a_categorical_feature_is_counted_with_its_values_and_nulls(tmp_path):
    city = pa.array(["oslo", "rome", None, "oslo", "bern", None, "rome"])

    seen = profile(tmp_path, {"city": city}, {"categorical": ["city"]}).categorical["city"]

    keys = sorted((key_of(name), name) for name in ("oslo", "rome", "bern"))
    assert (seen.cardinality, seen.rows, seen.null_count, seen.num_values) == (3, 7, 2, 5)
    assert seen.key_class == "string"
    assert seen.vocabulary.tolist() == [key for key, _ in keys]
    assert seen.display == tuple(name for _, name in keys)
    assert seen.max_length is None


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([3, -1], pa.int16()), {"3", "-1"}),
        (pa.array([2**64 - 1, 0], pa.uint64()), {"18446744073709551615", "0"}),
        (pa.array([True, False]), {"true", "false"}),
        (pa.array([0, 1], pa.date32()), {"1970-01-01", "1970-01-02"}),
        (
            pa.array([0, 1_500_000], pa.timestamp("us", tz="Europe/Oslo")),
            {"1970-01-01T00:00:00.000000", "1970-01-01T00:00:01.500000"},
        ),
        (pa.array([b"\xff", b"ok"]), {"\\xff", "ok"}),
        (pa.array([b"ab", b"cd"], pa.binary(2)), {"ab", "cd"}),
        (pa.array(["x", "y"]).dictionary_encode(), {"x", "y"}),
        (pa.array(["x", "y"], pa.large_string()), {"x", "y"}),
        (pa.array(["x", "y"], pa.string_view()), {"x", "y"}),
        (pa.array(["l" * 300, "y"]), {"l" * 197 + "...", "y"}),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_of_any_type_have_texts_for_people(tmp_path, values, texts):
    seen = profile(tmp_path, {"x": values}, {"categorical": ["x"]}).categorical["x"]

    assert set(seen.display) == texts


def test_lists_are_counted_by_their_values(tmp_path):
    tags = pa.array([["a", "b"], [], None, ["b", None, "c"], ["a"]])

    seen = profile(tmp_path, {"tags": tags}, {"list": ["tags"]}).categorical["tags"]

    assert (seen.rows, seen.null_count, seen.num_values, seen.cardinality) == (5, 1, 5, 3)
    assert seen.max_length == 2
    assert sorted(seen.display) == ["a", "b", "c"]


def test_a_cross_is_counted_by_its_pairs(tmp_path):
    columns = {"a": pa.array(["x", "y", None, "x"]), "b": pa.array([1, 1, 2, 1])}

    seen = profile(
        tmp_path, columns, {"categorical": ["a", "b"], "cross": {"ab": ["a", "b"]}}
    ).categorical["ab"]

    keys = cross_keys(
        [
            (np.array([key_of("x"), key_of("y"), 0], np.uint64), np.array([0, 0, 1], np.uint8)),
            (np.array([1, 1, 2], np.uint64), None),
        ]
    )
    assert dict(zip(seen.vocabulary.tolist(), seen.display, strict=True)) == dict(
        zip(keys.tolist(), ["x x 1", "y x 1", "null x 2"], strict=True)
    )
    assert (seen.null_count, seen.num_values) == (0, 4)


def test_derived_values_are_counted_not_the_dates(tmp_path):
    dates = pa.array([0, 7, 14, 1], pa.date32())

    seen = profile(
        tmp_path,
        {"day": dates},
        {"categorical": ["day"]},
        day=FeatureSettings(derive="weekday"),
    ).categorical["day"]

    # 1970-01-01 was a Thursday, three days after a Monday.
    assert seen.vocabulary.tolist() == [3, 4]
    assert seen.display == ("3", "4")


@pytest.mark.parametrize(("exact_below", "is_known"), [(0, False), (9, False), (10, True)])
def test_vocabularies_are_kept_up_to_exact_below(tmp_path, exact_below, is_known):
    table = TableSettings(rows=1000, exact_below=exact_below)

    seen = profile(tmp_path, {"x": range(10)}, {"categorical": ["x"]}, table=table).categorical["x"]

    assert seen.cardinality == 10
    assert (seen.vocabulary is not None) is is_known
    assert (seen.display is not None) is is_known


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        (TableSettings(method="exact"), {}),
        (TableSettings(rows=1000, exact_below=0), {"x": FeatureSettings(exact=True)}),
        (
            TableSettings(rows=1000, exact_below=0),
            {"y": FeatureSettings(exact=True), "x": FeatureSettings(shares="y")},
        ),
    ],
)
def test_exact_features_keep_their_whole_vocabulary(tmp_path, table, settings):
    columns = {"x": range(500), "y": range(500)}

    seen = profile(
        tmp_path, columns, {"categorical": ["x", "y"]}, table=table, row_group_size=90, **settings
    ).categorical["x"]

    assert seen.vocabulary.tolist() == list(range(500))
    assert seen.display[499] == "499"


def test_too_many_values_for_exact_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(features.accumulate, "MAX_VOCABULARY", 80_000)

    with pytest.raises(PlanError, match='"x" has more than 80,000 values, too many for exact rows'):
        profile(
            tmp_path,
            {"x": range(90_000)},
            {"categorical": ["x"]},
            table=TableSettings(method="exact"),
            row_group_size=30_000,
        )


def test_a_column_of_nulls_has_no_class(tmp_path):
    seen = profile(tmp_path, {"x": pa.nulls(4)}, {"categorical": ["x"]}).categorical["x"]

    assert (seen.key_class, seen.cardinality, seen.null_count) == (None, 0, 4)


def test_numbers_are_measured_as_standardizing_needs_them(tmp_path):
    price = pa.array([1.0, None, float("nan"), 200, -5, 30])

    seen = profile(
        tmp_path,
        {"price": price},
        {"dense": ["price"]},
        row_group_size=2,
        price=FeatureSettings(clip=(0, 100), log="log1p"),
    ).dense["price"]

    prepared = np.log1p([1, 100, 0, 30])
    assert (seen.rows, seen.missing_count) == (6, 2)
    assert (seen.minimum, seen.maximum) == (-5, 200)
    assert seen.mean == pytest.approx(prepared.mean(), rel=1e-14)
    assert seen.std == pytest.approx(prepared.std(), rel=1e-14)
    assert seen.edges is None


def test_a_bucketized_feature_has_edges_and_its_buckets_as_values(tmp_path):
    age = pa.array([*range(40), None, float("nan")], pa.float64())

    seen = profile(tmp_path, {"age": age}, {"dense": ["age"]}, age=FeatureSettings(bucketize=4))

    assert seen.dense["age"].edges == (10, 20, 30)
    buckets = seen.categorical["age"]
    assert (buckets.cardinality, buckets.null_count, buckets.num_values) == (4, 2, 40)
    assert buckets.display == ("[-inf, 10)", "[10, 20)", "[20, 30)", "[30, inf)")


def test_a_number_that_is_always_missing_has_no_range(tmp_path):
    seen = profile(tmp_path, {"x": pa.array([None] * 3, pa.float32())}, {"dense": ["x"]}).dense["x"]

    assert (seen.minimum, seen.maximum, seen.mean, seen.std) == (None, None, 0, 0)


def test_numbers_too_far_apart_are_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        profile(tmp_path, {"x": [1e308, -1e308, 1e308]}, {"dense": ["x"]}, row_group_size=1)

    assert 'dense column "x" reaches from -1e+308 to 1e+308' in caught.value.what
    assert "feature.x.clip" in caught.value.fix


def test_labels_and_weights_are_counted(tmp_path):
    columns = {"x": range(5), "click": [1, 0, 1, 1, 0], "w": [1.0, 2, 3, 0, 0.5]}

    seen = profile(tmp_path, columns, {"categorical": ["x"]}, data=WEIGHTED)

    assert (seen.rows, seen.positives, seen.weight_sum, seen.positive_weight) == (5, 3, 6.5, 4)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"click": [0, 1, 1, 0, 2]}, 'row group 1: label column "click" is 2 in row 1'),
        ({"click": [0, 1, None, 0, 1]}, 'row group 0: label column "click" is null in row 2'),
        ({"w": [1, 1, 1, -1, 1]}, 'row group 1: weight column "w" is -1 in row 0'),
        (
            {"price": [0, 0, 0, 0, math.inf]},
            'row group 1: dense column "price" holds an infinity in row 1',
        ),
    ],
)
def test_a_value_that_cannot_be_trained_on_is_named_with_its_place(tmp_path, columns, said):
    whole = {"x": range(5), "click": [0, 1] * 2 + [0], "w": [1] * 5, "price": [0.0] * 5} | columns

    with pytest.raises(DataError) as caught:
        profile(tmp_path, whole, {"categorical": ["x"], "dense": ["price"]}, data=WEIGHTED)

    assert caught.value.what.startswith(f"a.parquet, {said}")


@pytest.fixture
def rich(tmp_path):
    """A file with features of every kind."""
    random = np.random.default_rng(0)
    columns = {
        "user": random.integers(0, 5000, 4000),
        "city": pa.array([f"city {i % 30}" if i % 7 else None for i in range(4000)]),
        "tags": pa.array([list(range(i % 4)) for i in range(4000)]),
        "price": random.lognormal(size=4000),
        "age": random.integers(0, 90, 4000).astype(float),
        "w": random.random(4000),
    }
    features = {
        "categorical": ["user", "city"],
        "list": ["tags"],
        "dense": ["price", "age"],
        "cross": {"city_user": ["city", "user"]},
    }
    settings = {
        "price": FeatureSettings(log="signed"),
        "age": FeatureSettings(bucketize=8),
    }
    return columns, features, settings


def test_counts_do_not_depend_on_the_row_groups(tmp_path, rich):
    columns, features, settings = rich
    trees = []

    for row_group_size in (4000, 700):
        seen = profile(
            tmp_path, columns, features, data=WEIGHTED, row_group_size=row_group_size, **settings
        )
        trees.append(seen.to_json())

    # Sums of floats depend on where they are cut, in their last digits.
    for name in ("price", "age"):
        one, other = (tree["dense"].pop(name) for tree in trees)
        assert one.pop("mean") == pytest.approx(other.pop("mean"), rel=1e-12)
        assert one.pop("std") == pytest.approx(other.pop("std"), rel=1e-12)
        assert one == other
    assert trees[0]["categorical"] == trees[1]["categorical"]


def test_the_same_data_gives_the_same_bytes(tmp_path, rich):
    columns, features, settings = rich

    profiles = [profile(tmp_path, columns, features, **settings) for _ in range(2)]

    assert profiles[0].to_bytes() == profiles[1].to_bytes()
    assert profiles[0].digest() == profiles[1].digest()


def test_a_profile_is_read_back_as_it_was(tmp_path, rich):
    columns, features, settings = rich
    written = profile(tmp_path, columns, features, **settings)

    read = Profile.from_bytes(written.to_bytes())

    assert read.to_bytes() == written.to_bytes()
    assert read.categorical["city"].vocabulary.tolist() == (
        written.categorical["city"].vocabulary.tolist()
    )
    assert read.dense == written.dense


def broken(tree, *path, value):
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["rows"], "many"),
        (["extra"], 1),
        (["format"], 2),
        (["hash"], "mux2"),
        (["categorical", "x", "vocabulary"], "not base64"),
        (["categorical", "x", "vocabulary"], "AAAA"),
        (["categorical", "x", "cardinality"], 7),
        (["categorical", "x", "key_class"], "float"),
        (["categorical", "x", "display"], ["one"]),
        (["dense", "p", "mean"], None),
        (["dense", "p", "mean"], math.nan),
        (["dense", "p"], []),
    ],
)
def test_a_damaged_profile_is_refused(tmp_path, path, value):
    written = profile(
        tmp_path, {"x": [1, 2, 3], "p": [1, 2, 3]}, {"categorical": ["x"], "dense": ["p"]}
    )

    text = broken(written.to_json(), *path, value=value)

    with pytest.raises(SnapshotError, match="the profile is damaged or foreign"):
        Profile.from_bytes(text)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(SnapshotError, match="the profile is damaged or foreign"):
        Profile.from_bytes(text)


def test_progress_counts_the_rows(tmp_path):
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "a.parquet", row_group_size=4)
    features = FeatureSet.build(
        None, FeaturesSettings(categorical=["x"]), {}, TableSettings(rows=100)
    )
    said = []

    build_profile(
        open_dataset("*.parquet", tmp_path),
        features,
        TableSettings(rows=100),
        lambda done, total: said.append((done, total)),
    )

    assert said == [(4, 10), (8, 10), (10, 10)]


@given(
    nps.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e9, 1e9)),
    st.lists(st.integers(1, 59), max_size=3),
)
def test_moments_of_parts_are_those_of_the_whole(values, cuts):
    moments = Moments()

    for part in np.split(values, sorted(set(cuts))):
        if len(part):
            moments.add(part)

    scale = np.abs(values).max()
    assert moments.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-14 * scale)
    assert moments.std == pytest.approx(values.std(), rel=1e-9, abs=1e-13 * scale)


def test_moments_far_from_zero_keep_their_digits():
    values = 1e9 + np.arange(1000) % 10
    moments = Moments()

    for part in np.split(values, 10):
        moments.add(part)

    assert moments.std == pytest.approx((np.arange(1000) % 10).std(), rel=1e-12)
