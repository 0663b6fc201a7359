import numpy as np
import pyarrow as pa
import pytest

from features.columns import table_keys
from features.errors import DataError, NotFoundError
from features.schema import FeatureSet
from serving.client import Client
from serving.session import Ragged
from storage.codecs.registry import EXAMPLES
from storage.snapshot import open_snapshot
from tests.serving.service import connected, served
from tests.serving.small import table_of, write_version


def offline(directory, table, name="v-0000000001"):
    """The vectors of a table's rows as the offline reader decodes them."""
    with open_snapshot(directory / name) as snapshot:
        layout = snapshot.layout
        features = FeatureSet(features=tuple(route.feature for route in layout.routes))
        keys = table_keys(
            table, features, "test", edges=layout.edges, key_classes=layout.key_classes
        )
        return {
            route.name: snapshot.lookup(route.name, keys[route.name]) for route in layout.routes
        }


def columns_of(table):
    return {name: table.column(name).combine_chunks() for name in table.column_names}


@pytest.mark.parametrize("codec", EXAMPLES)
def test_a_lookup_equals_the_offline_decoder_bit_for_bit(tmp_path, codec):
    write_version(tmp_path, 1, codec, width=16)
    table = table_of(400, seed=1)
    expected = offline(tmp_path, table)

    with served(tmp_path) as service:
        for wire in ("codec", "float32"):
            with Client(f"127.0.0.1:{service.port}", wire=wire) as client:
                found = client.lookup(columns_of(table))

                assert list(found) == list(expected)
                for name, vectors in expected.items():
                    assert found[name].tobytes() == vectors.tobytes(), (name, wire)
    assert found.version == "v-0000000001"
    assert found.counter == 1


def test_float16_is_what_float32_rounds_to(tmp_path):
    write_version(tmp_path, 1)
    table = table_of(50)
    expected = offline(tmp_path, table)

    with (
        served(tmp_path) as service,
        Client(f"127.0.0.1:{service.port}", wire="float16") as client,
    ):
        found = client.lookup(columns_of(table))

    for name, vectors in expected.items():
        assert np.array_equal(found[name], vectors.astype(np.float16).astype(np.float32))


def test_lists_can_be_had_value_by_value(tmp_path):
    write_version(tmp_path, 1)
    tags = [["a", None, "b"], [], None, ["a"]]

    with connected(tmp_path) as client:
        found = client.lookup({"tags": pa.array(tags)}, pooled=False)["tags"]
        pooled = client.lookup({"tags": pa.array(tags)})["tags"]

    assert isinstance(found, Ragged)
    # Null values are left out, and a null list is one vector: that of null.
    assert found.offsets.tolist() == [0, 2, 2, 3, 4]
    assert np.array_equal(found.values[0], found.values[3])
    assert np.array_equal(pooled[3], found.values[3])
    assert not pooled[1].any()


def test_values_may_come_as_whatever_a_caller_has(tmp_path):
    write_version(tmp_path, 1)
    ids = [3, -1, 2**63 - 1]

    with connected(tmp_path) as client:
        expected = client.lookup({"user": pa.array(ids)})["user"]
        for values in (ids, np.array(ids), np.array(ids, np.int64).view(np.uint64)):
            assert np.array_equal(client.lookup({"user": values})["user"], expected)
        strings = ["Paris", "", "größe"]
        expected = client.lookup({"city": strings})["city"]
        for values in (
            np.array(strings),
            pa.array(strings).dictionary_encode(),
            pa.array([text.encode() for text in strings]),
            pa.array(strings, pa.large_string()),
            pa.array(["x", *strings])[1:],
        ):
            assert np.array_equal(client.lookup({"city": values})["city"], expected)
        lists = [[1, 2], [3, 4]]
        expected = client.lookup({"history": lists})["history"]
        for values in (np.array(lists), (np.arange(1, 5), [0, 2, 4])):
            assert np.array_equal(client.lookup({"history": values})["history"], expected)


def test_repeated_values_are_sent_once_and_come_back_in_order(tmp_path):
    write_version(tmp_path, 1)
    rng = np.random.default_rng(0)
    users = rng.integers(0, 50, 5000)
    cities = pa.array([f"city {i}" if i else None for i in rng.integers(0, 9, 5000)])

    with served(tmp_path) as service:
        plain = Client(f"127.0.0.1:{service.port}", dedup=False)
        sparing = Client(f"127.0.0.1:{service.port}")
        with plain, sparing:
            expected = plain.lookup({"user": users, "city": cities}, ["user", "city"])
            found = sparing.lookup({"user": users, "city": cities}, ["user", "city"])

    for name in expected:
        assert np.array_equal(found[name], expected[name])


def test_a_lookup_beyond_the_limits_goes_in_parts_of_one_version(tmp_path):
    write_version(tmp_path, 1)
    table = table_of(3000, seed=5)
    expected = offline(tmp_path, table)

    with connected(tmp_path, max_lookups=5000, max_request_bytes=100_000) as client:
        found = client.lookup(columns_of(table))
        ragged = client.lookup({"tags": columns_of(table)["tags"]}, pooled=False)["tags"]

    for name, vectors in expected.items():
        assert np.array_equal(found[name], vectors)
    assert len(ragged.offsets) == 3001


def test_no_samples_give_no_vectors(tmp_path):
    write_version(tmp_path, 1)

    with connected(tmp_path) as client:
        found = client.lookup({"user": np.empty(0, np.int64), "city": pa.array([], pa.string())})

    assert found["user"].shape == (0, 24)
    assert found["city"].shape == (0, 16)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    write_version(tmp_path, 1)

    with connected(tmp_path) as client:
        with pytest.raises(DataError, match="nobody"):
            client.lookup({"nobody": [1]})
        with pytest.raises(DataError, match=r'"user".*strings'):
            client.lookup({"user": ["seven"]})
        with pytest.raises(DataError, match="length"):
            client.lookup({"user": [1], "city": ["a", "b"]})
        with pytest.raises(NotFoundError, match="v-0000000009"):
            client.lookup({"user": [1]}, version="v-0000000009")
        with pytest.raises(DataError, match="time"):
            client.lookup({"time": [5]}, ["hour"])
