import copy

import pytest

from features.errors import ConfigError, SnapshotError
from features.schema import Feature, FeatureSet
from features.settings import DataSettings, FeatureSettings, FeaturesSettings, TableSettings

DATA = DataSettings(train="x.parquet", label="click", weight="w")


def build(feature=None, table=None, data=DATA, **features):
    return FeatureSet.build(
        data,
        FeaturesSettings(**features),
        {name: FeatureSettings(**settings) for name, settings in (feature or {}).items()},
        TableSettings(budget="1 MB", **(table or {})),
    )


def everything():
    return build(
        feature={
            "hour": {"column": "time", "derive": "hour"},
            "user": {"lookups": 3},
            "history": {"shares": "item", "pooling": "last", "max_length": 20},
            "tags": {"pooling": "sum"},
            "price": {"log": "log1p", "clip": (0.0, 1e6), "missing": True, "fill": 0.0},
            "age": {"bucketize": 10, "lookups": 1},
            "user_hour": {"exact": False},
        },
        categorical=["user", "item", "hour"],
        list=["tags"],
        sequence=["history"],
        dense=["price", "age"],
        cross={"user_hour": ["user", "hour"]},
    )


def test_features_stand_in_layout_order_with_all_defaults_resolved():
    built = everything()

    assert [one.name for one in built.features] == [
        *("user", "item", "hour", "tags", "history", "user_hour", "age")
    ]
    assert [one.name for one in built.dense] == ["price"]
    assert [one.num_lookups for one in built.features] == [3, 2, 2, 2, 2, 2, 1]
    assert built["history"].salt_name == "item"
    assert built["hour"].columns == ("time",)
    assert built["user_hour"].columns == ("user", "time")
    assert built["user_hour"].parts == ("user", "hour")
    assert (built["tags"].pooling, built["history"].pooling) == ("sum", "last")
    assert built["age"].kind == "bucketized"
    assert built["age"].buckets == 10
    assert built["price"].standardize


def test_columns_name_each_input_once_with_label_and_weight_last():
    built = everything()

    assert built.feature_columns == ("user", "item", "time", "tags", "history", "age", "price")
    assert built.columns == (*built.feature_columns, "click", "w")
    assert [one.name for one in built.univalent] == ["user", "item", "hour", "user_hour", "age"]
    assert [one.name for one in built.bags] == ["tags", "history"]


def test_a_model_without_label_has_features_only():
    built = build(data=None, categorical=["click"])

    assert built.columns == ("click",)
    assert built.label is None


def test_the_method_hash_reads_one_row_for_each_value():
    built = build(table={"method": "hash"}, categorical=["a", "b"], feature={"b": {"lookups": 1}})

    assert [one.num_lookups for one in built.features] == [1, 1]


def test_a_sharer_has_the_lookups_of_its_target():
    built = build(
        categorical=["item"],
        list=["basket"],
        feature={"item": {"lookups": 4}, "basket": {"shares": "item"}},
    )

    assert built["basket"].num_lookups == 4


def test_features_in_one_kind_may_read_one_column():
    built = build(
        categorical=["hour", "weekday"],
        feature={
            "hour": {"column": "time", "derive": "hour"},
            "weekday": {"column": "time", "derive": "weekday"},
        },
    )

    assert built.feature_columns == ("time",)


MISTAKES = {
    "no features": ({}, "declares no features", "categorical ="),
    "two kinds": (
        {"categorical": ["a"], "dense": ["a"]},
        '"a" is declared as categorical and as dense',
        '[feature.a_2] column = "a"',
    ),
    "cross named as a feature": (
        {"categorical": ["a", "b"], "cross": {"a": ["a", "b"]}},
        '"a" is declared as categorical and as cross',
        "a feature has one kind",
    ),
    "twice": ({"list": ["a", "a"]}, 'features.list names "a" twice', "remove one"),
    "unknown feature table": (
        {"categorical": ["user_id"], "feature": {"usr_id": {"lookups": 2}}},
        '[feature.usr_id] is for a feature that [features] does not declare: "usr_id"',
        'did you mean "user_id"?',
    ),
    "unknown and unlike": (
        {"categorical": ["user_id"], "feature": {"zzz": {}}},
        '"zzz"',
        "declare it under [features]",
    ),
    "empty name": ({"categorical": [""]}, "an empty name", "name of a column"),
    "NUL in a name": ({"categorical": ["a\0null"]}, "NUL", "rename"),
    "NUL in a cross": ({"categorical": ["a", "b"], "cross": {"\0": ["a", "b"]}}, "NUL", "rename"),
    "NUL in a column": (
        {"categorical": ["a"], "feature": {"a": {"column": "\0"}}},
        "feature.a.column",
        "rename",
    ),
    "surrogate": ({"categorical": ["\ud800"]}, "surrogate", "UTF-8"),
    "max_length of a categorical": (
        {"categorical": ["a"], "feature": {"a": {"max_length": 5}}},
        "feature.a.max_length does not apply: a is categorical",
        "a setting of sequence features",
    ),
    "derive of a list": (
        {"list": ["a"], "feature": {"a": {"derive": "hour"}}},
        "feature.a.derive does not apply: a is list",
        "a setting of categorical features",
    ),
    "lookups of a dense": (
        {"dense": ["a"], "categorical": ["b"], "feature": {"a": {"lookups": 2}}},
        "feature.a.lookups does not apply: a is dense",
        "categorical, list, sequence, cross and bucketized features",
    ),
    "log of a bucketized": (
        {"dense": ["a"], "feature": {"a": {"bucketize": 4, "log": "log1p"}}},
        "feature.a.log does not apply: a is bucketized",
        "quantiles of its raw values",
    ),
    "bucketize of a categorical": (
        {"categorical": ["a"], "feature": {"a": {"bucketize": 4}}},
        "feature.a.bucketize does not apply",
        "a setting of bucketized features",
    ),
    "column of a cross": (
        {"categorical": ["a", "b"], "cross": {"c": ["a", "b"]}, "feature": {"c": {"column": "d"}}},
        "feature.c.column does not apply: c is cross",
        "remove it",
    ),
    "clip upside down": (
        {"dense": ["a"], "feature": {"a": {"clip": (2.0, 1.0)}}},
        "feature.a.clip is [2, 1]",
        "lowest value first",
    ),
    "last of a list": (
        {"list": ["a"], "feature": {"a": {"pooling": "last"}}},
        'feature.a.pooling is "last", but a is a list',
        "mean and sum",
    ),
    "sum of a sequence": (
        {"sequence": ["a"], "feature": {"a": {"pooling": "sum"}}},
        'feature.a.pooling is "sum", but a is a sequence',
        "mean and last",
    ),
    "cross of an unknown": (
        {"categorical": ["origin"], "cross": {"c": ["origin", "orign"]}},
        'features.cross.c crosses "orign", which is not a feature',
        'did you mean "origin"?',
    ),
    "cross of a list": (
        {"categorical": ["a"], "list": ["l"], "cross": {"c": ["a", "l"]}},
        'features.cross.c crosses "l", which is list',
        "cross categorical features",
    ),
    "cross of a dense": (
        {"categorical": ["a"], "dense": ["d"], "cross": {"c": ["a", "d"]}},
        'crosses "d", which is dense',
        "cross categorical features",
    ),
    "cross of a cross": (
        {"categorical": ["a", "b"], "cross": {"c": ["a", "b"], "d": ["a", "c"]}},
        'crosses "c", which is cross',
        "cross categorical features",
    ),
    "cross with itself": (
        {"categorical": ["a"], "cross": {"c": ["a", "a"]}},
        'crosses "a" with itself',
        "once",
    ),
    "lookups under hash": (
        {"categorical": ["a"], "feature": {"a": {"lookups": 2}}, "table": {"method": "hash"}},
        'feature.a.lookups is 2, but table.method = "hash"',
        "unified",
    ),
    "hashed under exact": (
        {"categorical": ["a"], "feature": {"a": {"exact": False}}, "table": {"method": "exact"}},
        "feature.a.exact is false",
        "unified",
    ),
    "exact and multiplexed": (
        {"categorical": ["a"], "feature": {"a": {"exact": True, "multiplexed": True}}},
        "both exact and multiplexed",
        "remove one",
    ),
    "shares itself": (
        {"categorical": ["a"], "feature": {"a": {"shares": "a"}}},
        'feature.a.shares is "a" itself',
        "remove it",
    ),
    "shares an unknown": (
        {"categorical": ["item"], "list": ["l"], "feature": {"l": {"shares": "itm"}}},
        'feature.l.shares is "itm", which is not a feature',
        'did you mean "item"?',
    ),
    "shares a cross": (
        {
            "categorical": ["a", "b"],
            "cross": {"c": ["a", "b"]},
            "feature": {"a": {"shares": "c"}},
        },
        'feature.a.shares is "c", which is cross',
        "categorical, list or sequence",
    ),
    "shares a chain": (
        {"categorical": ["a", "b", "c"], "feature": {"b": {"shares": "a"}, "c": {"shares": "b"}}},
        'feature.c.shares is "b", which itself shares the rows of "a"',
        'write shares = "a"',
    ),
    "shares in a circle": (
        {"categorical": ["a", "b"], "feature": {"a": {"shares": "b"}, "b": {"shares": "a"}}},
        "itself shares the rows of",
        "write shares",
    ),
    "shares with other lookups": (
        {"categorical": ["a", "b"], "feature": {"b": {"shares": "a", "lookups": 3}}},
        'feature.b.lookups is 3, but b shares the rows of "a", which has 2',
        "the same number",
    ),
    "shares with exact": (
        {"categorical": ["a", "b"], "feature": {"b": {"shares": "a", "exact": True}}},
        "feature.b.exact is set, but b shares the rows of a",
        "[feature.a]",
    ),
    "shares with another part": (
        {"categorical": ["a", "b"], "feature": {"b": {"shares": "a", "derive": "hour"}}},
        "feature.b.derive differs from that of a",
        "derive the same part",
    ),
    "label as a feature": (
        {"categorical": ["click"]},
        'feature "click" reads column "click", which is the label',
        "not known when the model is used",
    ),
    "label through a column": (
        {"categorical": ["a"], "feature": {"a": {"column": "click"}}},
        'feature "a" reads column "click", which is the label',
        "remove the feature",
    ),
    "weight as a feature": (
        {"dense": ["w"]},
        'reads column "w", which is the weight',
        "or data.weight",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_naming_the_key_and_a_way_out(mistake):
    settings, what, fix = MISTAKES[mistake]

    with pytest.raises(ConfigError) as refused:
        build(**settings)

    assert what in refused.value.what
    assert fix in refused.value.fix


def test_weight_and_label_are_two_columns():
    with pytest.raises(ConfigError, match="the same column"):
        build(data=DataSettings(train="x", label="click", weight="click"), categorical=["a"])


def test_a_schema_survives_json():
    built = everything()

    again = FeatureSet.from_json(built.to_json())

    assert again == built


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.pop("features"),
        lambda tree: tree.update(extra=1),
        lambda tree: tree["features"][0].update(num_lookups="2"),
        lambda tree: tree["features"][0].update(num_lookups=-1),
        lambda tree: tree["features"][0].update(max_length=-1),
        lambda tree: tree["features"][0].update(buckets=0),
        lambda tree: tree["features"][0].update(kind="categorial"),
        lambda tree: tree["features"][0].update(unknown=1),
        lambda tree: tree["features"][0].pop("name"),
        lambda tree: tree["dense"][0].update(clip=[1.0]),
        lambda tree: tree["features"][0].update(name="item"),
        lambda tree: tree["features"].pop(0),
    ],
)
def test_a_damaged_schema_is_refused(damage):
    tree = copy.deepcopy(everything().to_json())
    damage(tree)

    with pytest.raises(SnapshotError, match="the feature schema is damaged or foreign"):
        FeatureSet.from_json(tree)


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError, match="nope"):
        everything()["nope"]
    assert isinstance(everything()["price"], Feature)
