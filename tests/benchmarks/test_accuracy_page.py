"""The tables of docs/accuracy.md are those of the results that are kept."""

import json

import pytest

from benchmarks import accuracy_page, cold_ids, grid, lookups, other_sets, representations
from benchmarks.grid import Store
from launch.settings import load_job


def every_point():
    for budget in representations.BUDGETS:
        for method in representations.METHODS:
            for multiplexed in (True, False):
                yield from representations.points_of(method, budget, multiplexed)
                for one in other_sets.SETS:
                    for size in one.budgets:
                        yield from other_sets.points_of(one, method, size, multiplexed)
    for points in lookups.cells().values():
        yield from points
    for width in cold_ids.WIDTHS:
        for way in cold_ids.WAYS:
            yield from cold_ids.points_of(way, width)


def test_the_pages_say_what_the_results_say():
    pages = [page.read_text() for page in accuracy_page.PAGES]

    written = [accuracy_page.write(page, accuracy_page.tables()) for page in pages]

    assert written == pages, "run: python -m benchmarks.accuracy_page"


def test_every_kept_line_is_a_result():
    for path in grid.RESULTS.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            kept = json.loads(line)
            assert len(kept["digest"]) == 64
            assert "infeasible" in kept or 0.4 < kept["auc"] < 1
            assert "infeasible" in kept or kept["bytes"] <= 6_000_000


def test_settings_of_every_point_are_of_the_job_file():
    jobs = {}
    for point in every_point():
        jobs[point.job, point.settings] = point

    for point in jobs.values():
        overrides = [f"{key}={json.dumps(value)}" for key, value in point.overrides.items()]
        job = load_job(grid.ROOT / point.job, overrides)
        assert job.train.seed == point.seed


def test_a_table_has_both_sides_of_a_method_and_their_difference(monkeypatch, tmp_path):
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    method = representations.METHODS[0]
    for multiplexed, auc in ((False, 0.78), (True, 0.82)):
        for point in representations.points_of(method, "158 kB", multiplexed):
            auc += 0.001
            outcome = {"auc": auc, "log_loss": 0.4, "bytes": 100, "seconds": 1}
            Store(representations.NAME).add(point, outcome)

    table = accuracy_page.tables(tmp_path)["methods"]

    line = next(line for line in table.splitlines() if "| hash |" in line)
    assert ".7830 ± .0016 | .8230 ± .0016 | +.0400 | < .001 | .7707 / .8200" in line


def test_a_table_nobody_makes_is_an_error():
    with pytest.raises(KeyError, match="other"):
        accuracy_page.write("<!-- begin other -->\n<!-- end other -->", {"methods": ""})
