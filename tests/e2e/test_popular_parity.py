"""Hot rows and frequent values in features of every kind: trained and served alike, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from features.columns import table_keys
from features.heavy import HeavyHitters
from features.settings import TableSettings
from tests.e2e.test_parity import compare
from tests.features.statistics_of import Seen, counted, edged
from tests.serving.small import WIDTH, feature_set, table_of
from trainer.representations.registry import build_layout

KEY_CLASSES = {"city": "string", "level": "string", "tags": "string"}
CARDINALITIES = {
    "user": 1000,
    "city": 500,
    "hour": 24,
    "level": 4,
    "tags": 300,
    "history": 1000,
    "user_city": 9000,
}


def layout_by_traffic(**settings):
    """A layout whose popular values are those of the rows that are compared."""
    table = TableSettings(rows=20_000, width=WIDTH, exact_below=0, **settings)
    features = feature_set(table).features
    features = replace(
        feature_set(table),
        features=tuple(replace(one, exact=False) if one.exact else one for one in features),
    )
    edges = {"price": (1.0, 2.5, 10.0)}
    keys = table_keys(table_of(1000, 0), features, "test", edges=edges, key_classes={})
    seen = {"price": counted(4)}
    for name, cardinality in CARDINALITIES.items():
        values = keys[name].keys
        if keys[name].nulls is not None:
            values = values[keys[name].nulls == 0]
        found, counts = np.unique(values, return_counts=True)
        seen[name] = replace(
            counted(cardinality, KEY_CLASSES.get(name, "int")),
            popular=HeavyHitters(keys=found, counts=counts.astype(np.int64), error=0),
        )
    return build_layout(features, Seen(seen, {"price": edged(*edges["price"])}), table)


@pytest.mark.parametrize(
    "settings",
    [
        {"hot_rows": 0.2},
        {"frequent_values": 400},
        {"hot_rows": 0.02, "frequent_values": 700, "multiplexed": False},
        {"method": "pq", "hot_rows": 0.1, "frequent_values": 700},
    ],
)
def test_the_service_answers_what_training_looks_up(tmp_path, settings):
    layout = layout_by_traffic(**settings)
    popular = {route.feature.kind for route in layout.routes if route.popular is not None}
    # The history of one lookup has none to lose.
    with_hot_rows = {"sequence"} if "hot_rows" in settings else set()
    assert popular == {"categorical", "list", "cross"} | with_hot_rows

    compare(tmp_path, 2000, 1000, layout)
