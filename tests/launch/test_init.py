import tomllib
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.summary import ColumnSummary
from launch.cli import run
from launch.drafting import guess
from launch.settings import load_job
from tests.launch.command import muxtable

ROWS = 1000


def write_log(folder, **columns):
    """Rows of every kind of column."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, ROWS)
    start = datetime(2024, 1, 1)
    table = {
        "user": rng.integers(0, 50, ROWS),
        "city": [f"city {i}" for i in rng.integers(0, 5, ROWS)],
        "price": rng.exponential(3, ROWS),
        "views": rng.exponential(50_000, ROWS),
        "tags": [[int(t) for t in rng.integers(0, 9, 3)] for _ in range(ROWS)],
        "when": [start + timedelta(minutes=7 * i) for i in range(ROWS)],
        "day": [date(2024, 1, 1) + timedelta(days=i % 40) for i in range(ROWS)],
        "row_id": np.arange(ROWS),
        "same": ["x"] * ROWS,
        "copy": label,
        "amount": pa.array([None] * ROWS, pa.int8()),
        "click": label,
        **columns,
    }
    pq.write_table(pa.table(table), folder / "log.parquet")
    return folder / "log.parquet"


def test_a_draft_is_a_job_file_that_loads(tmp_path):
    data = write_log(tmp_path)

    done = muxtable("init", data, "--label", "click", "--out", tmp_path / "job.toml")

    job = load_job(tmp_path / "job.toml")
    assert done.code == 0
    assert job.features.categorical == ["user", "city", "when", "day"]
    assert job.features.dense == ["price", "views"]
    assert job.features.list == ["tags"]
    assert job.feature["when"].derive == "hour"
    assert job.feature["day"].derive == "weekday"
    assert job.feature["views"].log == "log1p"
    assert job.data.label == "click"


def test_columns_that_give_the_label_away_are_warned_of_and_left_out(tmp_path):
    data = write_log(tmp_path)

    done = muxtable("init", data, "--label", "click", "--out", tmp_path / "job.toml", "--json")

    left_out = {c["name"]: c["reason"] for c in done.document["columns"] if c["kind"] is None}
    assert set(left_out) == {"row_id", "same", "copy", "amount"}
    assert "gives the label away" in left_out["copy"]
    assert "row number" in left_out["row_id"]
    assert "warning: column copy" in done.err
    assert "warning: column row_id" in done.err


def test_what_is_left_out_stands_in_the_file_with_the_reason(tmp_path):
    data = write_log(tmp_path)

    run(["init", str(data), "--label", "click", "--out", str(tmp_path / "job.toml"), "--quiet"])

    text = (tmp_path / "job.toml").read_text()
    assert "#   same: every row says the same" in text
    assert "#   row_id: 1,000 values in 1,000 rows: a row number" in text
    assert tomllib.loads(text)["data"]["train"] == str(data)


def test_the_path_of_the_data_is_written_relative_to_the_job_file(tmp_path, monkeypatch):
    write_log(tmp_path)
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)

    code = run(["init", "log.parquet", "--label", "click", "--out", "jobs/a.toml", "--quiet"])

    job = tomllib.loads((tmp_path / "jobs" / "a.toml").read_text())
    assert code == 0
    assert job["data"]["train"] == "../log.parquet"


def test_an_existing_file_is_replaced_only_by_force(tmp_path, capsys):
    data = write_log(tmp_path)
    out = tmp_path / "job.toml"
    out.write_text("mine")
    arguments = ["init", str(data), "--label", "click", "--out", str(out), "--quiet"]

    refused, kept = run(arguments), out.read_text()
    forced = run([*arguments, "--force"])

    assert (refused, kept) == (2, "mine")
    assert "--force" in capsys.readouterr().err
    assert forced == 0
    assert out.read_text() != "mine"


def test_names_that_toml_must_quote_are_quoted(tmp_path):
    data = write_log(tmp_path, **{'a "b".c': [datetime(2024, 1, 1, i % 24) for i in range(ROWS)]})

    run(["init", str(data), "--label", "click", "--out", str(tmp_path / "job.toml"), "--quiet"])

    assert load_job(tmp_path / "job.toml").feature['a "b".c'].derive == "hour"


def test_data_without_any_feature_is_refused_with_the_reasons(tmp_path, capsys):
    table = pa.table({"same": [1, 1], "click": [0, 1]})
    pq.write_table(table, tmp_path / "log.parquet")
    out = tmp_path / "job.toml"

    code = run(["init", str(tmp_path / "log.parquet"), "--label", "click", "--out", str(out)])

    assert code == 2
    assert "same: every row says the same" in capsys.readouterr().err
    assert not out.exists()


def summary(**changes) -> ColumnSummary:
    facts = {
        "name": "x",
        "arrow_type": "int64",
        "values": "integers",
        "problem": None,
        "is_list": False,
        "rows": 1000,
        "null_count": 0,
        "cardinality": 10,
        "leak": None,
        "minimum": 0.0,
        "maximum": 9.0,
        "mean_length": None,
        "max_length": None,
    }
    return ColumnSummary(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "log"),
    [
        ({}, "categorical", None),
        ({"values": "booleans"}, "categorical", None),
        ({"values": "numbers"}, "dense", None),
        ({"values": "numbers", "maximum": 1e6}, "dense", "log1p"),
        ({"values": "numbers", "minimum": -1e6}, "dense", "signed"),
        ({"is_list": True, "mean_length": 2.5}, "list", None),
        ({"values": None, "problem": "a struct"}, None, None),
        ({"null_count": 1000, "cardinality": 0}, None, None),
        ({"cardinality": 1000}, None, None),
    ],
)
def test_kinds_are_guessed_from_types_and_cardinality(changes, kind, log):
    guessed = guess(summary(**changes))

    assert (guessed.kind, guessed.log) == (kind, log)
    assert guessed.reason
