"""What values read, and what readers make of it, as pinned for all tables there are."""

import json

import numpy as np
import pytest

from features.collisions import forecast, measured_collisions
from features.routing import Layout
from tests.golden.make_readers import FILE, TABLES, VALUES, layout_of, reading

GOLDEN = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_layout_reads_the_same_rows_and_makes_the_same_vectors(name):
    pinned = GOLDEN[name]
    tensors = {
        key: np.array([int(text, 16) for text in texts], np.uint64)
        for key, texts in pinned["vocabularies"].items()
    }

    layout = Layout.from_json(pinned["layout"], tensors)

    for feature, expected in pinned["readings"].items():
        keys = [None if key is None else int(key, 16) for key in expected["keys"]]
        rows, vectors = reading(layout, feature, keys)
        assert rows == expected["rows"]
        wanted = [np.frombuffer(bytes.fromhex(text), "<f4") for text in expected["vectors"]]
        if name in ("dhe", "tt"):
            # Products of matrices depend on the library.
            np.testing.assert_allclose(vectors, wanted, rtol=1e-5, atol=1e-7)
        else:
            assert vectors.tobytes() == np.stack(wanted).tobytes()


@pytest.mark.parametrize("name", TABLES)
def test_the_same_settings_still_give_the_recorded_layout(name):
    layout = layout_of(TABLES[name])

    assert json.loads(json.dumps(layout.to_json())) == GOLDEN[name]["layout"]
    assert layout.vocabularies().keys() == GOLDEN[name]["vocabularies"].keys()


def test_every_method_is_pinned():
    from trainer.representations.registry import METHODS

    assert {table["method"] for table in TABLES.values()} == set(METHODS)


@pytest.mark.parametrize(
    "method", ["hash_embedding", "hashednet", "robe", "qr", "tt", "dhe", "exact"]
)
def test_collisions_by_a_reader_are_counted_as_they_are_foretold(method):
    layout = layout_of(TABLES[method])
    keys = np.arange(1000, 3000, dtype=np.uint64)

    measured = measured_collisions(layout, "user", keys)
    foretold = {one.feature: one for one in forecast(layout, dict.fromkeys(VALUES, len(keys)))}

    if method == "exact":  # none of these was seen: they have the row of the unseen in common
        assert measured.co_residents == len(keys) - 1
    elif not layout["user"].lookups:
        assert measured.co_residents == foretold["user"].co_residents == 0
    elif method != "robe":  # whose blocks overlap more often than they begin at one place
        assert measured.co_residents == pytest.approx(foretold["user"].co_residents, rel=0.1)
