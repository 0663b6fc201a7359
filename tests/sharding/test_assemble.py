"""Pooling and placing of vectors, against loops over samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from sharding.assemble import assemble, flat_rows
from tests.sharding.batches import PlainTable, make_batch, settings


@run(deadline=None)
@given(
    num_rows=st.integers(1, 9),
    num_lookups=st.integers(0, 4),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_assembled_vectors_stand_in_their_columns(num_rows, num_lookups, width, seed):
    generator = np.random.default_rng(seed)
    with_bags = num_lookups == 0 or bool(seed % 2)
    batch = make_batch(generator, num_rows, num_lookups, width, 11, with_bags)
    table = generator.normal(size=(11, width))

    embedding = assemble(torch.from_numpy(table[flat_rows(batch)]), batch)

    expected = PlainTable(table, settings("sgd")).lookup(batch)
    torch.testing.assert_close(embedding, expected)


def test_a_batch_without_samples_gives_an_empty_embedding():
    batch = make_batch(np.random.default_rng(0), 0, 3, 4, 10)

    embedding = assemble(torch.empty(0, 4), batch)

    assert embedding.shape == (0, 12)


@pytest.mark.parametrize("with_bags", [False, True])
def test_gradients_of_the_embedding_are_exact(with_bags):
    batch = make_batch(np.random.default_rng(0), 5, 3, 2, 10, with_bags)
    vectors = torch.randn(
        len(flat_rows(batch)),
        2,
        dtype=torch.float64,
        requires_grad=True,
        generator=torch.Generator().manual_seed(0),
    )

    assert torch.autograd.gradcheck(lambda v: assemble(v, batch), [vectors])
