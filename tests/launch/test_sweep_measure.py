import json

import pytest

from launch.sweep.measure import Assignment, run_point
from storage.codecs import codec_named
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.export import Export
from trainer.run import Run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("clicks")
    write_clicks(path)
    return path


def assignment(base, folder=None, codecs=(), **changes):
    return Assignment(job=clicks_job(**changes), base=base, folder=folder, codecs=codecs)


def test_a_point_is_measured_as_its_run_and_its_exports_are(base, tmp_path):
    outcome = run_point(assignment(base, tmp_path / "run", ("int8",)))

    assert outcome.what == ""
    assert list(outcome.by_codec) == ["float32", "int8"]
    run = Run.open(tmp_path / "run")
    result = json.loads((run.path / "result.json").read_text())
    for name, found in outcome.by_codec.items():
        with Export(run) as export:
            codec = export.codec(codec_named(name))
            written = export.write(tmp_path / "versions", f"v-0000000001-{name}", codec)
            layout = export.layout
        assert found["served_bytes"] == pytest.approx(written.size_bytes, abs=40)
        assert found["rows_bytes"] == layout.rows * codec.row_bytes
        assert found["dictionary_bytes"] == sum(v.nbytes for v in layout.vocabularies().values())
        assert found["tower_bytes"] == (written.path / "tower.onnx").stat().st_size
        assert found["table_bytes"] == layout.rows * layout.width * 4
        assert found["status"] == "done"
    whole, coded = outcome.by_codec["float32"], outcome.by_codec["int8"]
    assert whole["auc_test"] == result["metrics"]["test"]["auc"]
    assert whole["auc_valid"] == result["metrics"]["valid"]["auc"]
    assert coded["auc_test"] == pytest.approx(whole["auc_test"], abs=0.01)
    assert 0 < coded["relative_error"] < 0.01
    assert whole["step_s"] > 0
    assert whole["peak_bytes"] == result["memory"]["peak_bytes"]


def test_a_finished_run_that_was_not_stored_is_measured_again_and_not_trained(base, tmp_path):
    first = run_point(assignment(base, tmp_path / "run"))
    written = (tmp_path / "run/result.json").stat().st_mtime_ns

    second = run_point(assignment(base, tmp_path / "run"))

    assert (tmp_path / "run/result.json").stat().st_mtime_ns == written
    keys = [key for key in first.by_codec["float32"] if key != "wall_s"]
    assert [first.by_codec["float32"][key] for key in keys] == [
        second.by_codec["float32"][key] for key in keys
    ]


def test_a_point_that_does_not_fit_is_a_reason(base):
    tiny = {"rows": None, "budget": "64 B", "exact_below": 20}

    outcome = run_point(assignment(base, codecs=("int8",), table=tiny))

    assert not outcome.is_mistake
    assert [each["status"] for each in outcome.by_codec.values()] == ["infeasible"] * 2
    assert "exact rows" in outcome.by_codec["int8"]["reason"]


def test_a_codec_that_does_not_suit_the_table_is_a_reason(base):
    outcome = run_point(
        assignment(base, codecs=("prefix:1+int8", "int8"), table={"method": "robe", "lookups": 2})
    )

    status = {codec: each["status"] for codec, each in outcome.by_codec.items()}
    assert status == {"float32": "done", "int8": "done", "prefix:1+int8": "infeasible"}


def test_a_loss_that_diverges_is_no_mistake_of_the_other_points(base):
    outcome = run_point(
        assignment(base, table={"optimizer": "sgd", "learning_rate": 100.0, "init_scale": 10.0})
    )

    assert not outcome.is_mistake
    assert outcome.by_codec["float32"]["status"] == "failed"
    assert "the loss is nan" in outcome.by_codec["float32"]["reason"]


def test_a_mistake_of_the_job_is_told_as_one(base):
    outcome = run_point(assignment(base, data={"label": "clicked"}))

    assert outcome.is_mistake
    assert '"clicked"' in outcome.what
