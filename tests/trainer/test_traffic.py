"""The traffic that `plan` foretells against what the engines count when they run."""

import numpy as np
import pytest

from features.parquet import open_dataset
from features.profile import build_profile
from features.schema import FeatureSet
from sharding.table import create_engine
from tests.ranks import run_ranks
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.plan import make_plan
from trainer.representations.registry import build_layout
from trainer.stream import BatchStream
from trainer.traffic import measure_traffic

JOB = {
    "data": {"streams": 4},
    "table": {"rows": 300, "width": 16, "exact_below": 20, "transport": "network"},
}


def _prepared(folder):
    job = clicks_job(**JOB)
    dataset = open_dataset("train/*.parquet", folder)
    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    profile = build_profile(dataset, feature_set, job.table)
    return job, dataset, feature_set, profile, build_layout(feature_set, profile, job.table)


def _steps(ranks, folder, steps):
    job, dataset, feature_set, profile, layout = _prepared(folder)
    engine = create_engine("exchange", layout.rows, layout.width, job.table, 0, 1, ranks=ranks)
    before = ranks.bytes_sent
    with BatchStream(
        dataset,
        feature_set,
        profile,
        job.data,
        batch_size=job.train.batch_size,
        seed=0,
        epoch=0,
        rank=ranks.rank,
        world_size=ranks.world_size,
    ) as stream:
        for _ in range(steps):
            vectors = engine.lookup(layout.route(next(stream), 1))
            vectors.sum().backward()
    return ranks.bytes_sent - before


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_exchange_sends_what_was_foretold(tmp_path, world_size):
    write_clicks(tmp_path)
    job, dataset, feature_set, profile, layout = _prepared(tmp_path)
    plan = make_plan(job, feature_set, profile, world_size=world_size)

    traffic = measure_traffic(job, plan, layout, dataset, feature_set, profile, world_size)
    sent = sum(run_ranks(world_size, _steps, tmp_path, 12)) / 12

    assert traffic.exchange_bytes == pytest.approx(sent, rel=0.1)
    assert 0 < traffic.distinct_rows <= traffic.lookups
    assert traffic.torchrec_bytes > traffic.exchange_bytes
    assert np.isfinite(traffic.tower_bytes)
