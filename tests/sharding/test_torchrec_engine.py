"""What padding asks of the FBGEMM engine: widths that are no multiple of 4 train as if unpadded."""

import numpy as np
import pytest
import torch

from sharding.table import create_engine
from tests.sharding.batches import PlainTable, make_batch, settings


@pytest.mark.parametrize("width", [1, 2, 3, 5, 15])
@pytest.mark.parametrize("eps", [1e-8, 0.5])
def test_rowwise_adagrad_of_padded_rows_is_that_of_unpadded_ones(width, eps):
    config = settings("rowwise_adagrad", learning_rate=0.1, eps=eps)
    engine = create_engine("torchrec", 30, width, config, seed=1, threads=1)
    plain = PlainTable(engine.state()["weight"].copy(), config)
    generator = np.random.default_rng(2)

    for _ in range(10):
        batch = make_batch(generator, 6, 3, width, 30)
        gradient = torch.from_numpy(generator.normal(size=(6, batch.out_width)))
        engine.lookup(batch).backward(gradient.float())
        plain.lookup(batch).backward(gradient)
        plain.apply()

    np.testing.assert_allclose(engine.state()["weight"], plain.weight.detach(), atol=1e-6)
    scale = engine.state_width / width
    np.testing.assert_allclose(engine.state()["momentum1"] * scale, plain.momentum1, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_padding_stays_zero(optimizer):
    engine = create_engine("torchrec", 30, 5, settings(optimizer), seed=1, threads=1)
    generator = np.random.default_rng(2)

    for _ in range(3):
        batch = make_batch(generator, 6, 3, 5, 30, with_bags=True)
        engine.lookup(batch).square().sum().backward()

    padded = engine.weight.as_strided((30, 8), (8, 1))
    assert torch.count_nonzero(padded[:, 5:]) == 0
    assert torch.count_nonzero(padded[:, :5]) == 30 * 5


def test_a_learning_rate_schedule_reaches_padded_rows():
    config = settings("rowwise_adagrad", learning_rate=0.1)
    engine = create_engine("torchrec", 30, 15, config, seed=1, threads=1)
    fused = create_engine("fused", 30, 15, config, seed=1, threads=1)
    generator = np.random.default_rng(2)

    for step in range(5):
        batch = make_batch(generator, 6, 3, 15, 30)
        for one in (engine, fused):
            one.learning_rate = 0.1 / (step + 1)
            one.lookup(batch).square().sum().backward()

    np.testing.assert_allclose(engine.state()["weight"], fused.state()["weight"], atol=1e-6)
