"""What training looks up is what the service answers, bit for bit."""

import numpy as np
import pytest
import torch

from features.columns import table_keys
from features.routing import KeyBatch
from features.schema import FeatureSet
from features.settings import TableSettings
from serving.client import Client
from sharding.table import create_engine
from storage.codecs.registry import codec_named
from storage.snapshot_record import Lineage
from storage.snapshot_writer import Source, write_snapshot
from tests.serving.service import served
from tests.serving.small import layout, table_of

NO_DENSE = np.empty((0, 0), np.float32)


def compare(directory, num_rows, block):
    """Trains a step on each block, exports, and compares all blocks with the service."""
    plan = layout(rows=20_000)
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
        engine.lookup(batch(seed)[1]).square().sum().backward()
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
                expected = engine.lookup(rows).numpy()
            columns = {n: table.column(n).combine_chunks() for n in table.column_names}
            found = client.lookup(columns)
            assert found.matrix().tobytes() == expected.tobytes(), f"block {seed}"


def test_the_service_answers_what_training_looks_up(tmp_path):
    compare(tmp_path, 4000, 1000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_service_answers_what_training_looks_up_a_million_times(tmp_path):
    compare(tmp_path, 1_000_000, 20_000)
