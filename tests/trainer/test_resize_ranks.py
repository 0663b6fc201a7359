"""A table that several ranks wrote, changed by one process and read by any number of them."""

import numpy as np
import pytest

from features.batches import KeyBatch, KeyColumn
from launch.settings import load_job
from tests.ranks import run_ranks
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.evaluate import load_model
from trainer.resize import Change
from trainer.resize_run import resize_run
from trainer.run import Run
from trainer.train import train

ROWS = 100_000


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder)
    return folder


def _stopped_at_20(ranks, folder):
    """Trains until step 20 of a longer run."""
    polls = iter(range(10**6))
    result = train(
        clicks_job(train={"epochs": 3}, run={"checkpoint_every": 20}),
        folder / "run",
        folder,
        ranks=ranks,
        stop_requested=lambda: 15 if next(polls) > 40 else None,
    )
    return result.signal


def _go_on(ranks, job_path):
    folder = job_path.parent
    return train(load_job(job_path), folder, folder, ranks=ranks).step


def _scores(ranks, path):
    """Predictions of this rank's half of 10^5 rows; a lookup is collective."""
    rng = np.random.default_rng(0)
    user, item = (rng.integers(0, 2**63, ROWS).astype(np.uint64) for _ in range(2))
    dense = rng.normal(size=(ROWS, 2)).astype(np.float32)
    own = slice(ROWS * ranks.rank // ranks.world_size, ROWS * (ranks.rank + 1) // ranks.world_size)
    size = own.stop - own.start
    offsets = np.arange(size + 1, dtype=np.int64)
    batch = KeyBatch(
        num_rows=size,
        columns={
            "user": KeyColumn(user[own]),
            "item": KeyColumn(item[own]),
            "tags": KeyColumn(user[own] % 11, None, offsets),
        },
        matrix=None,
        null_matrix=None,
        dense=dense[own],
    )
    # Batches of one size: products of matrices may depend on how many rows there are.
    return load_model(Run.open(path), "last", ranks).model.predict(batch)


def test_two_ranks_predict_the_same_before_and_after_growing_and_one_goes_on(clicks, tmp_path):
    assert set(run_ranks(2, _stopped_at_20, clicks)) == {15}
    before = run_ranks(2, _scores, clicks / "run")

    resized = resize_run(Run.open(clicks / "run"), "last", Change("grow", 4), tmp_path / "grown")

    after = run_ranks(2, _scores, tmp_path / "grown")
    for one, other in zip(before, after, strict=True):
        assert len(one) == ROWS // 2
        assert np.array_equal(one, other)
    assert run_ranks(1, _go_on, resized.job) == [96]
