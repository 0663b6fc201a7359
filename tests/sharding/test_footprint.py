"""The forecast of a table's memory is what its engine then takes."""

import pytest

from features.settings import TableSettings
from sharding.footprint import footprint, resolve_engine
from sharding.table import create_engine
from tests.sharding.batches import settings


@pytest.mark.parametrize("width", [1, 3, 15, 16, 17, 30, 33])
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("fused", "rowwise_adagrad"),
        ("fused", "adagrad"),
        ("fused", "adam"),
        ("fused", "sgd"),
        ("exchange", "rowwise_adagrad"),
        ("exchange", "adam"),
        ("torchrec", "rowwise_adagrad"),
        ("torchrec", "adagrad"),
        ("torchrec", "sgd"),
    ],
)
def test_forecast_is_what_the_engine_takes(name, optimizer, width):
    engine = create_engine(name, 100, width, settings(optimizer), seed=0, threads=1)

    forecast = footprint(name, 100, width, optimizer)

    assert engine.memory_bytes() == forecast.total_bytes
    assert forecast.weight_bytes >= 100 * width * 4


def test_auto_takes_our_kernels_on_a_cpu_and_torchrec_elsewhere():
    auto, fused = TableSettings(rows=1), TableSettings(rows=1, engine="fused")

    resolved = [
        resolve_engine(auto, "cpu"),
        resolve_engine(auto, "cpu", world_size=2),
        resolve_engine(auto, "cuda"),
        resolve_engine(fused, "cuda"),
    ]

    assert resolved == ["fused", "exchange", "torchrec", "fused"]
