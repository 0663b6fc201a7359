"""A trained run as versions: exported, scored by its ONNX file, compared, brought up by a delta."""

import json
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from features.batches import KeyColumn
from features.columns import table_keys
from features.parquet import open_dataset
from features.scan import scan
from features.schema import FeatureSet
from storage.snapshot import Snapshot, open_snapshot
from tests.launch.command import ROOT, muxtable
from tests.trainer.clicks import write_clicks

JOB = """
[data]
train = "train"
valid = "valid"
test = "test"
label = "click"
[features]
categorical = ["user", "item"]
list = ["tags"]
dense = ["price", "price_band"]
[features.cross]
user_item = ["user", "item"]
[feature.price_band]
column = "price"
bucketize = 5
[table]
rows = 300
width = 4
exact_below = 40
[tower]
hidden = [8]
[train]
batch_size = 200
epochs = 2
threads = 1
[run]
dir = "run"
tensorboard = false
checkpoint_every = 5
keep = 20
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a click log and a finished run, 10,000 rows of them to be scored."""
    path = tmp_path_factory.mktemp("export")
    write_clicks(path, test=10_000)
    (path / "job.toml").write_text(JOB)
    trained = muxtable("train", path / "job.toml", "--json")
    assert trained.code == 0, trained.err
    return path


def export(folder: Path, *options: object) -> dict:
    done = muxtable("export", folder / "run", *options, "--json")
    assert done.code == 0, done.err
    return done.document


def scored(folder: Path, snapshot: Snapshot) -> np.ndarray:
    """Scores the test files with a version alone: lookups, and its own graph."""
    layout, record = snapshot.layout, snapshot.record
    session = onnxruntime.InferenceSession(
        snapshot.file(record.tower.file), providers=["CPUExecutionProvider"]
    )
    feature_set = FeatureSet(features=tuple(route.feature for route in layout.routes))
    columns = [*feature_set.feature_columns, *record.tower.dense]
    scores = []
    for step in scan(open_dataset("test", folder), tuple(dict.fromkeys(columns))):
        keys = table_keys(
            step.table, feature_set, step.where, edges=layout.edges, key_classes=layout.key_classes
        )
        numbers = [step.table.column(name).to_numpy().astype(float) for name in record.tower.dense]
        inputs = {"embeddings": snapshot.embed(keys), "dense": np.stack(numbers, axis=1)}
        scores.append(session.run(["score"], inputs)[0])
    return np.concatenate(scores)


def test_lookups_and_the_graph_of_a_version_score_as_predict_does(folder, tmp_path):
    done = muxtable("predict", folder / "run", folder / "test", "--out", tmp_path / "scores")
    assert done.code == 0, done.err
    files = sorted((tmp_path / "scores").glob("*.parquet"))
    expected = np.concatenate([pq.read_table(file)["score"].to_numpy() for file in files])

    export(folder, "--out", tmp_path / "versions")
    again = muxtable("export", folder / "run", "--out", tmp_path / "versions")

    assert again.code == 2
    assert "exists already" in again.err
    (path,) = (tmp_path / "versions").iterdir()
    with open_snapshot(path) as snapshot:
        found = scored(folder, snapshot)
    assert len(found) == 10_000
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_same_checkpoint_gives_the_same_bytes(folder, tmp_path):
    paths = [
        Path(export(folder, "--codec", "pq:2x8", "--out", tmp_path / turn)["path"])
        for turn in ("first", "second")
    ]

    files = [{each.name: each.read_bytes() for each in path.iterdir()} for path in paths]
    assert files[0] == files[1]


def test_a_delta_gives_the_version_it_was_made_for(folder, tmp_path):
    out = tmp_path / "versions"
    base = export(folder, "--out", out, "--codec", "int8", "--checkpoint", 10)
    whole = export(folder, "--out", tmp_path / "whole", "--codec", "int8", "--checkpoint", "last")

    delta = export(folder, "--out", out, "--delta-from", base["version"], "--checkpoint", "last")
    inspected = muxtable("inspect", delta["path"], "--verify", "--json")
    applied = muxtable("apply", delta["path"], "--json")

    assert 0 < delta["delta"]["changed"] <= delta["rows"]
    assert inspected.document["proved"] == applied.document["digest"] == delta["digest"]
    other = muxtable(
        "export", folder / "run", "--out", out, "--delta-from", base["version"], "--codec", "int4"
    )
    assert other.code == 2
    assert "cannot stand on it" in other.err
    files = [
        {each.name: each.read_bytes() for each in Path(path).iterdir()}
        for path in (applied.document["path"], whole["path"])
    ]
    assert files[0].keys() == files[1].keys()
    assert files[0] == files[1]


def test_versions_are_compared_by_feature(folder, tmp_path):
    first = export(folder, "--out", tmp_path, "--checkpoint", 10)
    second = export(folder, "--out", tmp_path, "--codec", "int8", "--checkpoint", "last")

    same = muxtable("diff", first["path"], first["path"], "--json").document
    other = muxtable(
        "diff", first["path"], second["path"], "--data", folder / "test", "--json"
    ).document

    for each in same["features"]:
        assert (each["cosine"], each["changed"], each["norm_ratio"]) == (1, 0, 1)
        assert each["nearest_kept"] in (None, 1)
    features = {each["feature"]: each for each in other["features"]}
    assert features.keys() == {"user", "item", "tags", "user_item", "price_band"}
    assert features["user"]["values"] == 60
    assert features["user"]["cosine"] < 0.9999
    assert features["user"]["changed"] > 0.5
    assert 0 <= features["user"]["nearest_kept"] < 1


def test_values_are_written_with_the_vectors_that_training_gave_them(folder, tmp_path):
    export(folder, "--out", tmp_path / "versions")
    written = export(
        folder, "--out", tmp_path / "values", "--to", "faiss", "--data", folder / "test"
    )

    (path,) = (tmp_path / "versions").iterdir()
    files = {each["feature"]: each for each in written["files"]}
    items = pq.read_table(files["item"]["path"])
    with open_snapshot(path) as snapshot:
        for name, of_parts in (("user", False), ("user_item", True)):
            table = pq.read_table(files[name]["path"])
            values = table["value"].to_pylist()
            words = [list(v.values()) if of_parts else [v] for v in values[:40]]
            looked_up = muxtable(
                "lookup", folder / "run", name, *map(str, words[7]), "--json"
            ).document
            np.testing.assert_array_equal(
                np.float32(table["vector"].to_pylist()[7]), np.float32(looked_up["vector"])
            )
        assert len(set(items["value"].to_pylist())) == items.num_rows == files["item"]["values"]
        bands = pq.read_table(files["price_band"]["path"])
        assert bands.column_names == ["value", "from", "to", "vector"]
        keys = KeyColumn(np.arange(bands.num_rows - 1, dtype=np.uint64))
        np.testing.assert_array_equal(
            np.float32(bands["vector"].to_pylist()[:-1]), snapshot.lookup("price_band", keys)
        )
    index = faiss.read_index(files["item"]["index"])
    vectors = np.float32(items["vector"].to_pylist())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near, numbers = index.search(unit, 1)
    np.testing.assert_allclose(near[:, 0], 1, atol=1e-5)
    assert index.ntotal == items.num_rows
    # Values in the same rows are the same to the model.
    np.testing.assert_allclose(unit[numbers[:, 0]], unit, atol=1e-5)
    again = muxtable("export", folder / "run", "--out", tmp_path / "values", "--to", "parquet")
    assert again.code == 2
    assert "exists" in again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codec", "int9"], 'did you mean "int'),
        (["--checkpoint", "3"], "no checkpoint of step 3"),
        (["--delta-from", "v-0000000001"], "no checkpoint or snapshot"),
        (["--to", "parquet", "--codec", "int8"], "--codec does not go with --to parquet"),
    ],
)
def test_mistakes_are_said_in_one_screen(folder, tmp_path, options, message):
    done = muxtable("export", folder / "run", "--out", tmp_path / "versions", *options)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    left = list((tmp_path / "versions").iterdir()) if (tmp_path / "versions").exists() else []
    assert left == []


def test_the_example_scores_with_a_version_alone(folder, tmp_path):
    version = export(folder, "--out", tmp_path, "--codec", "int8")
    done = subprocess.run(
        [sys.executable, ROOT / "examples/score_with_onnx.py", version["path"], folder / "test"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 10_000
