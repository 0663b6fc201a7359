import copy

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.columns import table_keys
from features.errors import DataError, SnapshotError
from features.routing import KeyBatch, KeyColumn, Layout, Placement, Region
from features.schema import Feature, FeatureSet
from tests.features import reference

WIDTH = 4


def feature(name, kind="categorical", lookups=2, **settings):
    settings.setdefault("salt_name", name)
    return Feature(name=name, kind=kind, columns=(name,), num_lookups=lookups, **settings)


FEATURES = (
    feature("user", lookups=3),
    feature("item"),
    feature("small"),
    feature("tags", "list", 1, pooling="sum"),
    feature("history", "sequence", pooling="last", salt_name="item"),
    feature("recent", "sequence", pooling="mean", max_length=2, salt_name="small"),
    feature("age", "bucketized", 1, buckets=3),
)
REGION_OF = {"user": "shared", "item": "feature:item", "tags": "shared", "age": "shared"}
REGION_OF |= {"small": "exact:small", "history": "feature:item", "recent": "exact:small"}
REGIONS = (
    Region(name="shared", kind="shared", base=0, rows=1000, width=WIDTH),
    Region(name="feature:item", kind="feature", base=1000, rows=50, width=WIDTH),
    Region(name="exact:small", kind="exact", base=1050, rows=10, width=WIDTH),
)
VOCABULARY = np.array([5, 7, 2**64 - 1], np.uint64)


def assemble(**changes):
    given_ = {
        "width": WIDTH,
        "hash_seed": 9,
        "regions": REGIONS,
        "placements": [
            Placement(
                feature=one,
                region=REGION_OF[one.name],
                key_class="int",
                edges=(1.0, 2.0) if one.kind == "bucketized" else None,
            )
            for one in FEATURES
        ],
        "vocabularies": {"exact:small": VOCABULARY},
    }
    return Layout.assemble(**(given_ | changes))


TABLE = pa.table(
    {
        "user": [1, None, 3],
        "item": [10, 11, None],
        "small": [7, None, 6],
        "tags": [[1, 2], [], None],
        "history": [[9, 10], None, [None, 11]],
        "recent": [[5, 6, 7], [-1], []],
        "age": [0.5, None, 9.0],
    }
)


def batch_of(table, layout, with_matrix=False):
    feature_set = FeatureSet(features=tuple(route.feature for route in layout.routes))
    columns = table_keys(table, feature_set, "f", edges=layout.edges)
    matrix = nulls = None
    if with_matrix:
        names = [one.name for one in feature_set.univalent]
        size = table.num_rows
        matrix = np.array([columns[name].keys for name in names], np.uint64)
        nulls = np.zeros((len(names), size), np.uint8)
        for i, name in enumerate(names):
            if columns[name].nulls is not None:
                nulls[i] = columns[name].nulls
    return KeyBatch(table.num_rows, columns, matrix, nulls, np.empty((table.num_rows, 0)))


def hashed(name, key, lookups, region):
    base, rows = next((one.base, one.rows) for one in REGIONS if one.name == region)
    return reference.rows(key, name, lookups, 9, base, rows)


def exact(index):
    return [1050 + index * 2, 1050 + index * 2 + 1]


@pytest.mark.parametrize("with_matrix", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_lookup_has_the_row_of_the_slow_reference_at_its_column(with_matrix, threads):
    layout = assemble()

    routed = layout.route(batch_of(TABLE, layout, with_matrix), threads)

    at = dict(zip(routed.columns.tolist(), routed.rows, strict=True))
    assert routed.num_rows == 3
    assert layout.out_width == routed.out_width == (3 + 2 + 2 + 1 + 2 + 2 + 1) * WIDTH
    users = [hashed("user", key, 3, "shared") for key in (1, None, 3)]
    items = [hashed("item", key, 2, "feature:item") for key in (10, 11, None)]
    ages = [hashed("age", key, 1, "shared") for key in (0, None, 2)]
    # 7 is the second of the vocabulary; 6 is unseen (3); null comes after it (4).
    smalls = [exact(1), exact(4), exact(3)]
    for first, rows in ((0, users), (12, items), (20, smalls), (48, ages)):
        for k in range(len(rows[0])):
            assert at[first + k * WIDTH].tolist() == [row[k] for row in rows]


def test_lists_are_pooled_and_sequences_cut_as_declared():
    layout = assemble()

    tags, history, recent = layout.route(batch_of(TABLE, layout)).bags

    assert (tags.mean, tags.column, tags.offsets.tolist()) == (False, 28, [0, 2, 2, 3])
    assert tags.rows.T.tolist() == [hashed("tags", key, 1, "shared") for key in (1, 2, None)]
    # The last value alone, under the salts and in the region of the item it shares with.
    assert (history.mean, history.column, history.offsets.tolist()) == (True, 32, [0, 1, 2, 3])
    assert history.rows.T.tolist() == [
        hashed("item", key, 2, "feature:item") for key in (10, None, 11)
    ]
    assert (recent.mean, recent.column, recent.offsets.tolist()) == (True, 40, [0, 2, 3, 3])
    assert recent.rows.T.tolist() == [exact(3), exact(1), exact(2)]


def test_an_empty_batch_has_no_rows():
    layout = assemble()

    routed = layout.route(batch_of(TABLE.slice(0, 0), layout))

    assert routed.rows.shape == (8, 0)
    assert [bag.rows.shape for bag in routed.bags] == [(1, 0), (2, 0), (2, 0)]
    assert [bag.offsets.tolist() for bag in routed.bags] == [[0], [0], [0]]


def test_a_layout_of_lists_alone_has_no_univalent_rows():
    layout = assemble(
        regions=REGIONS[:1],
        vocabularies={},
        placements=[Placement(feature=FEATURES[3], region="shared", key_class="int")],
    )

    routed = layout.route(batch_of(TABLE, layout))

    assert routed.rows.shape == (0, 3)
    assert len(routed.bags) == 1


def test_a_matrix_of_other_features_is_refused():
    layout = assemble()
    batch = KeyBatch(3, {}, np.zeros((2, 3), np.uint64), None, np.empty((3, 0)))

    with pytest.raises(ValueError, match=r"a key matrix of \(2, 3\), not \(4, 3\)"):
        layout.route(batch)


def test_a_list_without_offsets_is_refused():
    layout = assemble()
    batch = batch_of(TABLE, layout)
    batch.columns["tags"] = KeyColumn(batch.columns["tags"].keys)

    with pytest.raises(ValueError, match="list tags have no offsets"):
        layout.route(batch)


@given(
    order=st.permutations(["a", "b", "c", "d"]),
    keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    hash_seed=st.integers(0, 2**63 - 1),
)
def test_other_features_move_nobodys_rows(order, keys, hash_seed):
    column = KeyColumn(np.array(keys, np.uint64))
    regions = [Region(name="shared", kind="shared", base=0, rows=999, width=1)]

    def rows_of_a(names):
        placements = [
            Placement(feature=feature(name), region="shared", key_class="int") for name in names
        ]
        layout = Layout.assemble(
            width=1,
            hash_seed=hash_seed,
            regions=regions,
            placements=placements,
            vocabularies={},
        )
        return layout.rows_of("a", column).tolist()

    assert rows_of_a(order) == rows_of_a(["a"])


def test_the_layout_knows_the_class_each_feature_was_trained_on():
    layout = assemble()
    feature_set = FeatureSet(features=FEATURES)
    strings = TABLE.set_column(0, "user", pa.array(["1", "2", "3"]))

    with pytest.raises(DataError, match="trained on integers"):
        table_keys(strings, feature_set, "f", edges=layout.edges, key_classes=layout.key_classes)


def test_a_layout_survives_json_and_routes_alike():
    layout = assemble()

    again = Layout.from_json(layout.to_json(), layout.vocabularies())

    assert again.to_json() == layout.to_json()
    one, two = (made.route(batch_of(TABLE, made)) for made in (layout, again))
    assert (one.rows == two.rows).all()
    assert all((a.rows == b.rows).all() for a, b in zip(one.bags, two.bags, strict=True))


def test_the_manifest_holds_no_vocabulary_but_names_it():
    tree = assemble().to_json()

    assert [one["vocabulary"] for one in tree["features"]] == [
        *(None, None, "vocabulary.2", None, None, "vocabulary.2", None)
    ]
    assert list(assemble().vocabularies()) == ["vocabulary.2"]


def set_at(*path, to):
    def damage(tree):
        for part in path[:-1]:
            tree = tree[part]
        tree[path[-1]] = to

    return damage


DAMAGES = {
    "another hash": set_at("hash", to="mux2"),
    "a float seed": set_at("hash_seed", to=1.5),
    "another seed": set_at("hash_seed", to=8),
    "other rows": set_at("rows", to=1061),
    "another width": set_at("width", to=8),
    "no width": set_at("width", to=0),
    "a gap": set_at("regions", 1, "base", to=1001),
    "an empty region": set_at("regions", 0, "rows", to=0),
    "a name twice": set_at("regions", 1, "name", to="shared"),
    "exact rows too many": set_at("regions", 2, "rows", to=12),
    "exact before hashed": set_at("regions", 0, "kind", to="exact"),
    "a foreign salt": set_at("features", 0, "salts", to=["0" * 16] * 3),
    "a foreign column": set_at("features", 1, "column", to=13),
    "a renamed feature": set_at("features", 0, "feature", "name", to="usr"),
    "shared with no feature": set_at("features", 4, "feature", "salt_name", to="gone"),
    "shared with a sharer": set_at("features", 0, "feature", "salt_name", to="history"),
    "shared in another region": set_at("features", 4, "region", to="shared"),
    "a feature twice": set_at("features", 1, "feature", "name", to="user"),
    "no such region": set_at("features", 0, "region", to="nowhere"),
    "no such vocabulary": set_at("features", 2, "vocabulary", to="vocabulary.9"),
    "a vocabulary of a hashed feature": set_at("features", 0, "vocabulary", to="vocabulary.2"),
    "no edges": set_at("features", 6, "edges", to=None),
    "edges of a categorical": set_at("features", 0, "edges", to=[1.0]),
    "no lookups": set_at("features", 0, "feature", "num_lookups", to=0),
    "lookups without end": set_at("features", 0, "feature", "num_lookups", to=2**40),
    "another order": lambda tree: tree["features"].reverse(),
    "an unknown key": set_at("features", 0, "more", to=1),
    "no regions": lambda tree: tree.pop("regions"),
    "a cross of nothing": set_at("features", 0, "feature", "parts", to=["gone", "item"]),
    "a cross of a list": set_at("features", 0, "feature", "parts", to=["tags", "item"]),
    "a dense feature": set_at("features", 0, "feature", "kind", to="dense"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layout_is_refused(damage):
    layout = assemble()
    tree = copy.deepcopy(layout.to_json())
    DAMAGES[damage](tree)

    with pytest.raises(SnapshotError):
        Layout.from_json(tree, layout.vocabularies())


@pytest.mark.parametrize(
    "vocabulary",
    [
        VOCABULARY.astype(np.int64),
        VOCABULARY[::-1].copy(),
        VOCABULARY[[0, 0, 1]],
        VOCABULARY[:2],
        VOCABULARY[:, None],
    ],
)
def test_a_damaged_vocabulary_is_refused(vocabulary):
    tree = assemble().to_json()

    with pytest.raises(SnapshotError, match="the layout is damaged or foreign"):
        Layout.from_json(tree, {"vocabulary.2": vocabulary})
    with pytest.raises(SnapshotError, match=r"vocabulary .* is missing"):
        Layout.from_json(tree, {})
