"""Scores of a client that has a service and tower.onnx are those of `muxtable predict`."""

import json

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from features.parquet import open_dataset
from features.scan import scan
from serving.client import Client
from storage.snapshot import open_snapshot
from tests.e2e.test_export import JOB
from tests.launch.command import muxtable
from tests.serving.service import served
from tests.trainer.clicks import write_clicks


@pytest.mark.timeout(180)
def test_lookups_at_a_service_and_the_graph_score_as_predict_does(tmp_path):
    write_clicks(tmp_path, test=10_000)
    (tmp_path / "job.toml").write_text(JOB)
    run = tmp_path / "run"
    for words in (
        ("train", tmp_path / "job.toml"),
        ("export", run, "--out", tmp_path / "versions"),
        ("predict", run, tmp_path / "test", "--out", tmp_path / "scores"),
    ):
        done = muxtable(*words, "--json", timeout_s=100)
        assert done.code == 0, done.err
    files = sorted((tmp_path / "scores").glob("*.parquet"))
    expected = np.concatenate([pq.read_table(file)["score"].to_numpy() for file in files])

    with served(tmp_path / "versions") as service, Client(f"127.0.0.1:{service.port}") as client:
        manifest = client.manifest()
        with open_snapshot(tmp_path / "versions" / manifest.stamp.version) as snapshot:
            tower = snapshot.record.tower
            graph = onnxruntime.InferenceSession(
                snapshot.file(tower.file), providers=["CPUExecutionProvider"]
            )
        columns = dict.fromkeys(c for each in manifest.features for c in each.columns)
        scores = []
        wanted = tuple(dict.fromkeys([*columns, *tower.dense]))
        for step in scan(open_dataset("test", tmp_path), wanted):
            found = client.lookup({name: step.table.column(name) for name in columns})
            dense = [step.table.column(name).to_numpy().astype(float) for name in tower.dense]
            inputs = {"embeddings": found.matrix(), "dense": np.stack(dense, axis=1)}
            scores.append(graph.run(["score"], inputs)[0])

    assert json.loads(manifest.manifest)["kind"] == "snapshot"
    np.testing.assert_allclose(np.concatenate(scores), expected, rtol=0, atol=1e-5)
