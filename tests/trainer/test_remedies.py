import pytest

from tests.trainer.clicks import clicks_job
from trainer.remedies import find_remedies


def peak(job, ranks):
    """A table of one copy and state as large, a copy for the checkpoint, and a batch."""
    table = job.table.budget_bytes
    state = table if job.table.optimizer == "adagrad" else 0
    copy = 500_000_000 if job.run.copy_budget == "1 GiB" else 50_000_000
    return (table + state) // ranks + copy + job.train.batch_size * 1000


def job_of(**table):
    return clicks_job(
        table={"rows": None, "budget": "4 GB", **table},
        train={"batch_size": 1000},
        data={"streams": 16},
    )


def test_edits_that_suffice_come_first():
    found = find_remedies(job_of(), 1, 3_000_000_000, peak)

    assert [remedy.edit for remedy in found] == [
        "--workers 2",
        'table.budget = "2499 MB"',
        'run.copy_budget = "64 MiB"',
    ]
    assert all(remedy.peak_bytes <= 3_000_000_000 for remedy in found[:2])
    assert found[2].peak_bytes > 3_000_000_000


def test_a_heavy_optimizer_is_named():
    found = find_remedies(job_of(optimizer="adagrad"), 1, 5_000_000_000, peak)

    assert 'table.optimizer = "rowwise_adagrad"' in [remedy.edit for remedy in found]


def test_what_saves_nothing_is_not_proposed():
    def constant(_job, _ranks):
        return 10**9

    assert find_remedies(job_of(), 1, 10**8, constant) == ()


@pytest.mark.parametrize("limit", [600_000_000, 1_000_000_000, 2_000_000_000, 4_000_000_000])
def test_the_smaller_budget_is_the_largest_that_fits(limit):
    edits = {r.edit: r for r in find_remedies(job_of(), 1, limit, peak, number=9)}
    budgets = [remedy for edit, remedy in edits.items() if edit.startswith("table.budget")]

    for remedy in budgets:
        assert limit - 1_000_000 < remedy.peak_bytes <= limit
    assert bool(budgets) == (limit > 901_000_000)
