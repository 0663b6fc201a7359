import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import PlanError
from features.parquet import open_dataset
from features.profile import build_profile
from features.schema import FeatureSet
from launch.converters.splits import PARTS
from launch.demo.flights import read_flights, split_by_days
from launch.demo.job import demo_job
from sharding.table import create_engine
from tests.launch.command import ROOT, muxtable
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.forecast import forecast_memory, measure_libraries
from trainer.measured import measure
from trainer.plan import make_plan
from trainer.representations.registry import build_layout
from trainer.toml import toml_text
from trainer.towers import build_tower


@pytest.fixture
def clicks(tmp_path):
    """The dataset, and what plans need for a job."""
    write_clicks(tmp_path)
    dataset = open_dataset("train/*.parquet", tmp_path)

    def prepare(**changes):
        job = clicks_job(**changes)
        feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
        return job, feature_set, build_profile(dataset, feature_set, job.table), dataset

    return prepare


def test_the_table_is_planned_as_it_is_built(clicks):
    job, feature_set, profile, _ = clicks()

    plan = make_plan(job, feature_set, profile)

    engine = create_engine("fused", plan.rows, plan.width, job.table, seed=0, threads=1)
    assert (plan.rows, plan.width) == (300, 4)
    assert plan.parameter_bytes == 300 * 4 * 4
    assert plan.memory.total_bytes == engine.memory_bytes()


@pytest.mark.parametrize("kind", ["dcnv2", "dlrm", "mlp"])
def test_the_tower_is_planned_as_it_is_built(clicks, kind):
    job, feature_set, profile, _ = clicks(tower={"kind": kind, "dropout": 0.0})

    plan = make_plan(job, feature_set, profile)

    layout = build_layout(feature_set, profile, job.table)
    tower = build_tower(job.tower, [r.width_total for r in layout.routes], plan.num_dense, 0)
    assert plan.tower_parameters == sum(p.numel() for p in tower.parameters())
    assert plan.tower_bytes == 4 * plan.tower_parameters


def test_features_are_planned_as_they_are_laid_out(clicks):
    job, feature_set, profile, _ = clicks()

    user, item, tags = make_plan(job, feature_set, profile).features

    assert (user.cardinality, user.is_exact, user.region) == (60, False, "shared")
    assert (item.cardinality, item.is_exact) == (30, False)
    assert (tags.cardinality, tags.is_exact, tags.region_rows) == (9, True, (9 + 2) * 2)
    assert tags.co_residents == tags.lost_values == 0
    assert user.co_residents == pytest.approx(59 / user.region_rows)


def test_collisions_measured_on_the_data_are_near_the_forecast(clicks):
    job, feature_set, profile, dataset = clicks(table={"rows": 40, "exact_below": 0})
    layout = build_layout(feature_set, profile, job.table)
    plan = make_plan(job, feature_set, profile)

    measured = measure(dataset, feature_set, layout)

    assert measured.is_whole
    assert measured.rows == 2000
    for feature in plan.features:
        counted = measured.collisions[feature.name]
        assert counted.cardinality == feature.cardinality
        assert counted.co_residents == pytest.approx(feature.co_residents, rel=0.5, abs=0.1)


def test_measuring_stops_where_it_was_told_to(clicks):
    job, feature_set, profile, dataset = clicks()
    layout = build_layout(feature_set, profile, job.table)

    measured = measure(dataset, feature_set, layout, most_rows=600)

    assert 600 <= measured.rows < 2000
    assert not measured.is_whole


def test_a_plan_that_cannot_fit_is_refused(clicks):
    job, feature_set, profile, _ = clicks(table={"rows": 3})

    with pytest.raises(PlanError):
        make_plan(job, feature_set, profile)


def test_a_plan_is_plain_json(clicks):
    job, feature_set, profile, _ = clicks()

    plan = make_plan(job, feature_set, profile)

    assert json.loads(json.dumps(plan.to_json()))["rows"] == 300


def test_the_forecast_grows_by_what_a_larger_table_takes(clicks):
    small = clicks(table={"rows": 1000})
    large = clicks(table={"rows": 11_000_000, "optimizer": "adagrad"})

    forecasts = []
    for job, feature_set, profile, dataset in (small, large):
        plan = make_plan(job, feature_set, profile)
        forecasts.append(
            forecast_memory(job, plan, feature_set, profile, dataset, libraries_bytes=1)
        )

    growth = forecasts[1].peak_bytes - forecasts[0].peak_bytes
    # Rows of 4 floats and as many of state, and the copy of both that a checkpoint takes.
    assert growth == pytest.approx(2 * 2 * 11_000_000 * 16, rel=0.01)


def test_a_table_beyond_the_copy_budget_is_not_copied(clicks):
    changes = {"table": {"rows": 11_000_000}}
    copied = clicks(**changes)
    blockwise = clicks(**changes, run={"copy_budget": "16 MiB"})

    sizes = []
    for job, feature_set, profile, dataset in (copied, blockwise):
        plan = make_plan(job, feature_set, profile)
        forecast = forecast_memory(job, plan, feature_set, profile, dataset, libraries_bytes=1)
        sizes.append(dict(forecast.parts)["checkpoint copy"])

    assert sizes[0] > 11_000_000 * 16
    assert sizes[1] < 64 << 20


def test_the_libraries_are_measured_in_a_process_of_their_own():
    size = measure_libraries()

    assert 150 << 20 < size < 1500 << 20
    assert size % 1024 == 0


def test_the_forecast_is_a_sum_of_named_parts(clicks):
    job, feature_set, profile, dataset = clicks()

    plan = make_plan(job, feature_set, profile)
    forecast = forecast_memory(job, plan, feature_set, profile, dataset, libraries_bytes=1000)

    names = [name for name, _ in forecast.parts]
    assert len(set(names)) == len(names)
    assert forecast.peak_bytes == sum(size for _, size in forecast.parts)
    assert all(isinstance(size, int) and size >= 0 for _, size in forecast.parts)
    assert not any(np.isnan(size) for _, size in forecast.parts)


def train_planned(job_path, *options) -> tuple[int, int, int]:
    """The peak a plan foretells, the one the training itself foretells, and the measured one."""
    plan = muxtable("plan", job_path, *options, "--json", timeout_s=300)
    done = muxtable("train", job_path, *options, "--json", timeout_s=900)
    assert done.code == 0, done.err
    memory = json.loads((Path(done.document["run"]) / "result.json").read_text())["memory"]
    return plan.document["peak"]["peak_bytes"], memory["planned_bytes"], memory["peak_bytes"]


def assert_planned_well(job_path, *options):
    planned, foretold, measured = train_planned(job_path, *options)

    assert planned == pytest.approx(measured, rel=0.1)
    assert foretold == pytest.approx(measured, rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_peak_of_the_demo_is_foretold(tmp_path, epochs):
    for part, rows in zip(PARTS, split_by_days(read_flights().table), strict=True):
        pq.write_table(rows, tmp_path / f"{part}.parquet", row_group_size=65_536)
    (tmp_path / "job.toml").write_text(demo_job(".", "run"))

    assert_planned_well(tmp_path / "job.toml", "--set", f"train.epochs={epochs}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("epochs", "method"), [(1, "unified"), (3, "unified"), (1, "hashednet"), (1, "dhe")]
)
def test_the_peak_of_movielens_is_foretold(tmp_path, epochs, method):
    source = ROOT.parent / "shared" / "data" / "ml-1m"
    if not source.is_dir():
        pytest.skip("needs ../shared/data/ml-1m")
    data = tmp_path / "data"
    muxtable("convert", "movielens", source, "--out", data, "--drop-rating", 3)
    job = (ROOT / "examples" / "ml1m" / "two_lookups.toml").read_text()
    (tmp_path / "job.toml").write_text(job)

    settings = (f"train.epochs={epochs}", f"table.method={method}", "train.batch_size=8192")
    options = (part for setting in settings for part in ("--set", setting))
    assert_planned_well(tmp_path / "job.toml", *options)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_peak_of_a_table_of_4_gb_is_foretold(tmp_path):
    rng = np.random.default_rng(0)
    rows = 400_000
    columns = {f"id{i}": rng.integers(0, 2_000_000, rows) for i in range(10)}
    columns |= {f"number{i}": rng.random(rows) for i in range(5)}
    columns["label"] = rng.integers(0, 2, rows).astype(np.int8)
    pq.write_table(pa.table(columns), tmp_path / "train.parquet", row_group_size=65_536)
    (tmp_path / "job.toml").write_text(
        toml_text(
            {
                "data": {"train": "train.parquet", "valid": "train.parquet", "label": "label"},
                "features": {
                    "categorical": [name for name in columns if name.startswith("id")],
                    "dense": [name for name in columns if name.startswith("number")],
                },
                "table": {"budget": "4 GB", "width": 32},
                "run": {"dir": "run", "keep": 1},
            }
        )
    )

    assert_planned_well(tmp_path / "job.toml")
