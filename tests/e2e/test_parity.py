"""What training looks up is what the service answers, bit for bit."""

import numpy as np
import pytest
import torch

from features.columns import table_keys
from features.routing import KeyBatch
from features.schema import FeatureSet
from features.settings import TableSettings
from serving.client import Client
from sharding.assemble import combine
from sharding.table import create_engine
from storage.codecs.registry import codec_named
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot
from tests.serving.service import served
from tests.serving.small import layout, layout_by, table_of

NO_DENSE = np.empty((0, 0), np.float32)


def compare(directory, num_rows, block, plan=None, is_exact=True):
    """Trains a step on each block, exports, and compares all blocks with the service."""
    plan = layout(rows=20_000) if plan is None else plan
    settings = TableSettings(rows=plan.rows, width=plan.width)
    engine = create_engine(
        "fused", plan.rows, plan.width, settings, 0, threads=2, device=torch.device("cpu")
    )
    features = FeatureSet(features=tuple(route.feature for route in plan.routes))

    def batch(seed):
        table = table_of(block, seed)
        keys = table_keys(table, features, "test", edges=plan.edges, key_classes=plan.key_classes)
        return table, plan.route(KeyBatch(block, keys, None, None, NO_DENSE))

    for seed in range(2):
        embed(engine, batch(seed)[1]).square().sum().backward()
    weight = engine.weight.detach().numpy()
    source = Source(
        layout=plan,
        codec=codec_named("float32")(plan.width),
        read_rows=lambda first, end: weight[first:end],
        lineage=Lineage(run="run", job="0" * 64, step=1, checkpoint="1" * 64),
    )
    write_snapshot(directory, "v-0000000001", source)
    with served(directory) as service, Client(f"127.0.0.1:{service.port}") as client:
        for seed in range(num_rows // block):
            table, rows = batch(seed)
            with torch.no_grad():
                expected = embed(engine, rows).numpy()
            columns = {n: table.column(n).combine_chunks() for n in table.column_names}
            found = client.lookup(columns)
            if is_exact:
                assert found.matrix().tobytes() == expected.tobytes(), f"block {seed}"
            else:
                np.testing.assert_allclose(found.matrix(), expected, rtol=1e-6, atol=1e-6)


def embed(engine, rows):
    vectors = engine.lookup(rows)
    return combine(vectors, rows.parts) if rows.parts else vectors


def test_the_service_answers_what_training_looks_up(tmp_path):
    compare(tmp_path, 4000, 1000)


@pytest.mark.parametrize("method", ["hash_embedding", "pq", "qr", "hashednet", "robe", "dhe", "tt"])
@pytest.mark.parametrize("multiplexed", [True, False])
def test_the_service_answers_what_training_looks_up_by_every_method(tmp_path, method, multiplexed):
    plan = layout_by(method, multiplexed)
    # Products of matrices depend on their number of rows in the last bit.
    compare(tmp_path, 600, 300, plan, is_exact=method not in ("dhe", "tt"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_service_answers_what_training_looks_up_a_million_times(tmp_path):
    compare(tmp_path, 1_000_000, 20_000)
