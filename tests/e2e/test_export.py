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
from launch.commands.lookup import look_up
from launch.version_diff import compare, made_up_ids
from storage.codecs import codec_named
from storage.snapshot import Snapshot, open_snapshot
from tests.launch.command import ROOT, muxtable
from tests.storage.test_snapshot import files_of
from tests.trainer.clicks import write_clicks
from trainer.export import Export
from trainer.run import Run

# Each command starts torch; a busy machine takes its time for that.
pytestmark = pytest.mark.timeout(180)

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


@pytest.fixture(scope="module")
def version(folder: Path) -> Path:
    """Returns the run's best checkpoint as a version, the only one in its folder."""
    done = muxtable("export", folder / "run", "--out", folder / "versions", "--json")
    assert done.code == 0, done.err
    return Path(done.document["path"])


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


def test_lookups_and_the_graph_of_a_version_score_as_predict_does(folder, version, tmp_path):
    done = muxtable("predict", folder / "run", folder / "test", "--out", tmp_path / "scores")
    assert done.code == 0, done.err
    files = sorted((tmp_path / "scores").glob("*.parquet"))
    expected = np.concatenate([pq.read_table(file)["score"].to_numpy() for file in files])

    with open_snapshot(version) as snapshot:
        found = scored(folder, snapshot)

    assert len(found) == 10_000
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_example_scores_with_a_version_alone(folder, version):
    with open_snapshot(version) as snapshot:
        expected = scored(folder, snapshot)

    done = subprocess.run(
        [sys.executable, ROOT / "examples/score_with_onnx.py", version, folder / "test"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["rows"] == 10_000
    assert document["mean_score"] == pytest.approx(expected.mean())


def test_the_same_checkpoint_gives_the_same_bytes(folder, tmp_path):
    made = muxtable(
        *("export", folder / "run", "--codec", "pq:2x8", "--out", tmp_path / "a", "--json")
    ).document

    with Export(Run.open(folder / "run")) as run:
        codec = run.codec(codec_named("pq:2x8"))
        again = run.write(tmp_path / "b", made["version"], codec)

    assert files_of(Path(made["path"])) == files_of(again.path)
    assert made["digest"] == again.digest


def test_a_delta_gives_the_version_it_was_made_for(folder, tmp_path):
    run = Run.open(folder / "run")
    with Export(run, 10) as early, Export(run, "last") as late:
        codec = early.codec(codec_named("int8"))
        base = early.write(tmp_path, "v-0000000010", codec)
        whole = late.write(tmp_path / "whole", "v-0000000020", codec)

    made = muxtable(
        *("export", folder / "run", "--out", tmp_path, "--delta-from", base.name),
        *("--checkpoint", "last", "--json"),
    ).document
    inspected = muxtable("inspect", made["path"], "--verify", "--json").document
    applied = muxtable("apply", made["path"], "--json").document

    assert 0 < made["delta"]["changed"] <= made["rows"]
    assert inspected["proved"] == applied["digest"] == made["digest"] == whole.digest
    assert files_of(Path(applied["path"])) == files_of(whole.path)


def test_the_smallest_codec_that_holds_is_chosen_out_of_those_compared(folder, tmp_path):
    compared = muxtable(
        *("export", folder / "run", "--compare", "--out", tmp_path / "chart", "--json")
    ).document
    made = muxtable(
        *("export", folder / "run", "--codec", "auto", "--max-auc-loss", 0.01, "--json"),
        *("--out", tmp_path / "versions"),
    ).document

    assert made["codecs"] == compared["codecs"]
    assert Path(compared["chart"]).read_bytes()[:4] == b"\x89PNG"
    by_name = {each["codec"]: each for each in made["codecs"]}
    chosen = by_name[made["codec"]]
    assert chosen["auc_loss"] <= 0.01
    assert all(
        each["auc_loss"] > 0.01
        for each in by_name.values()
        if each["table_bytes"] < chosen["table_bytes"]
    )
    with open_snapshot(Path(made["path"])) as snapshot:
        assert snapshot.codec.text == made["codec"]


def test_versions_are_compared_by_feature(folder, version, tmp_path):
    with Export(Run.open(folder / "run"), 10) as early:
        other = early.write(tmp_path, "v-0000000010", early.codec(codec_named("int8")))

    different = muxtable(
        *("diff", version, other.path, "--data", folder / "test", "--json")
    ).document
    with open_snapshot(version) as one:
        same = compare(one, one, made_up_ids(one, 500), 10)

    for each in same:
        assert (each.cosine, each.changed, each.norm_ratio) == (pytest.approx(1), 0, 1)
        assert each.nearest_kept in (None, 1)
    features = {each["feature"]: each for each in different["features"]}
    assert features.keys() == {"user", "item", "tags", "user_item", "price_band"}
    assert features["user"]["values"] == 60
    assert features["user"]["cosine"] < 0.9999
    assert features["user"]["changed"] > 0.5
    assert 0 <= features["user"]["nearest_kept"] < 1


def test_values_are_written_with_the_vectors_that_training_gave_them(folder, version, tmp_path):
    out = tmp_path / "values"

    written = muxtable(
        *("export", folder / "run", "--out", out, "--to", "faiss", "--data", folder / "test"),
        "--json",
    ).document

    files = {each["feature"]: each for each in written["files"]}
    for name in ("user", "item", "user_item"):
        rows = pq.read_table(files[name]["path"]).to_pylist()
        value = rows[7]["value"]
        words = list(value.values()) if isinstance(value, dict) else [value]
        expected = look_up(folder / "run", name, [str(word) for word in words], None, "best")
        assert [np.float32(x) for x in rows[7]["vector"]] == expected["vector"]
        assert len({str(row["value"]) for row in rows}) == len(rows) == files[name]["values"]
    tags = pq.read_table(files["tags"]["path"])["value"].to_pylist()
    assert sorted(tags) == list(range(9))
    bands = pq.read_table(files["price_band"]["path"])
    assert bands.column_names == ["value", "from", "to", "vector"]
    keys = KeyColumn(np.arange(bands.num_rows - 1, dtype=np.uint64))
    with open_snapshot(version) as snapshot:
        np.testing.assert_array_equal(
            np.float32(bands["vector"].to_pylist()[:-1]), snapshot.lookup("price_band", keys)
        )
    index = faiss.read_index(files["item"]["index"])
    vectors = np.float32(pq.read_table(files["item"]["path"])["vector"].to_pylist())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near, numbers = index.search(unit, 1)
    assert index.ntotal == len(vectors)
    np.testing.assert_allclose(near[:, 0], 1, atol=1e-5)
    # Values in the same rows are the same to the model.
    np.testing.assert_allclose(unit[numbers[:, 0]], unit, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codec", "int9"], 'did you mean "int'),
        (["--codec", "int8"], "exists already"),
        (["--delta-from", "v-0000000001"], "no checkpoint or snapshot"),
        (["--to", "parquet", "--codec", "int8"], "--codec does not go with --to parquet"),
    ],
)
def test_mistakes_are_said_in_one_screen(folder, version, options, message):
    done = muxtable("export", folder / "run", "--out", version.parent, *options)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert [each.name for each in version.parent.iterdir()] == [version.name]
