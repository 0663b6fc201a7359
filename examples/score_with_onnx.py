"""Scores Parquet files with an exported version alone: lookups, then its ONNX graph.

    muxtable export runs/job --out versions
    python examples/score_with_onnx.py versions/v-0000001000 data/test

Needs the base installation and onnxruntime; no torch. Prints rows and mean score, which are those
of `muxtable predict` to 1e-5. A service does the lookups over the network in the same way.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from features.columns import table_keys
from features.parquet import open_dataset
from features.scan import scan
from features.schema import FeatureSet
from storage.snapshot import open_snapshot


def main(version: str, data: str) -> None:
    """Scores the files of `data` with the version in a folder."""
    with open_snapshot(Path(version)) as snapshot:
        layout, tower = snapshot.layout, snapshot.record.tower
        if tower is None:
            sys.exit(f"{version} has no graph: it was exported with --no-tower")
        graph = onnxruntime.InferenceSession(
            snapshot.file(tower.file), providers=["CPUExecutionProvider"]
        )
        features = FeatureSet(features=tuple(route.feature for route in layout.routes))
        dataset = open_dataset(data, Path.cwd())
        dataset.check(features, layout.key_classes)
        columns = tuple(dict.fromkeys([*features.feature_columns, *tower.dense]))
        total = 0.0
        for step in scan(dataset, columns):
            keys = table_keys(
                step.table, features, step.where, edges=layout.edges, key_classes=layout.key_classes
            )
            inputs = {"embeddings": snapshot.embed(keys)}
            if tower.dense:
                # Raw numbers: the graph knows how training scaled them. Null is NaN.
                numbers = [step.table.column(name).to_numpy() for name in tower.dense]
                inputs["dense"] = np.stack(numbers, axis=1).astype(np.float64)
            (scores,) = graph.run(["score"], inputs)
            total += float(scores.sum())
    print(json.dumps({"rows": dataset.num_rows, "mean_score": total / max(dataset.num_rows, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
