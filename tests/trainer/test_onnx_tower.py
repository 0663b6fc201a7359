import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.dense import DenseTransform, dense_matrix
from features.schema import Feature
from trainer.onnx_tower import tower_graph
from trainer.settings import TowerSettings
from trainer.towers import build_tower

WIDTHS = [8, 8, 4]
ROWS = 500


def transform(name: str, **options) -> DenseTransform:
    known = {"mean": 0.7, "std": 2.0, "has_indicator": False}
    numbers = {key: options.pop(key, value) for key, value in known.items()}
    feature = Feature(name=name, kind="dense", columns=(name,), salt_name=name, **options)
    return DenseTransform(feature=feature, **numbers)


TRANSFORMS = (
    transform("plain"),
    transform("flagged", has_indicator=True),
    transform("clipped", clip=(-1.0, 2.0), fill=5.0),
    transform("log", log="log1p", has_indicator=True, mean=0.1, std=0.01),
    transform("signed", log="signed", clip=(-100.0, 3.0)),
    transform("raw", standardize=False, mean=3.25),
    transform("raw_filled", standardize=False, fill=-2.0, log="log1p", has_indicator=True),
    transform("constant", std=0.0, mean=4.0),
)


def numbers(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, (rows, len(TRANSFORMS)))
    values *= 10.0 ** rng.integers(-12, 1, values.shape)
    values[rng.random(values.shape) < 0.15] = np.nan
    values[rng.random(values.shape) < 0.05] = 0.0
    return values


def table(values: np.ndarray) -> pa.Table:
    names = [each.feature.column for each in TRANSFORMS]
    return pa.table(dict(zip(names, map(pa.array, values.T), strict=True)))


def session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "kind",
    [
        TowerSettings(hidden=[16, 8], dropout=0.3),
        TowerSettings(hidden=[16], structure="parallel", low_rank=3, cross_layers=3),
        TowerSettings(kind="mlp", hidden=[12]),
        TowerSettings(kind="mlp", hidden=[]),
        TowerSettings(kind="dlrm", hidden=[16], bottom=[6]),
        TowerSettings(kind="dlrm", hidden=[16], projection=5),
    ],
    ids=lambda each: f"{each.kind}-{each.structure}-{each.projection}-{len(each.hidden)}",
)
@pytest.mark.parametrize("has_numbers", [True, False], ids=["dense", "no-dense"])
def test_the_graph_says_what_the_tower_says(kind, has_numbers):
    transforms = TRANSFORMS if has_numbers else ()
    values = numbers()[:, : len(transforms)]
    dense = (
        dense_matrix(transforms, table(values), "t")
        if has_numbers
        else np.empty((ROWS, 0), np.float32)
    )
    tower = build_tower(kind, WIDTHS, dense.shape[1], seed=3).eval()
    embeddings = np.random.default_rng(1).normal(0, 0.5, (ROWS, sum(WIDTHS))).astype(np.float32)
    with torch.inference_mode():
        logits = tower(torch.from_numpy(embeddings), torch.from_numpy(dense))

    data = tower_graph(tower, kind, sum(WIDTHS), transforms)
    inputs = {"embeddings": embeddings} | ({"dense": values} if has_numbers else {})
    found, score = session(data).run(["logit", "score"], inputs)

    scale = np.maximum(1, np.abs(logits.numpy()))
    assert (np.abs(found - logits.numpy()) / scale).max() < 1e-5
    np.testing.assert_allclose(score, torch.sigmoid(logits.double()).numpy(), atol=1e-5)
    assert data == tower_graph(tower, kind, sum(WIDTHS), transforms)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.floats(-1e30, 1e30) | st.just(float("nan")),
        min_size=len(TRANSFORMS),
        max_size=len(TRANSFORMS),
    )
)
def test_transforms_of_any_number_are_those_of_training(row):
    # The tower that only reads its input: one linear layer with a column each.
    values = np.array([row])
    dense = dense_matrix(TRANSFORMS, table(values), "t")
    tower = build_tower(TowerSettings(kind="mlp", hidden=[]), [], dense.shape[1], seed=0)

    for column in range(dense.shape[1]):
        with torch.no_grad():
            tower.head.weight.zero_()
            tower.head.bias.zero_()
            tower.head.weight[0, column] = 1
        data = tower_graph(tower, TowerSettings(kind="mlp", hidden=[]), 0, TRANSFORMS)
        (found,) = session(data).run(["logit"], {"dense": values})

        np.testing.assert_allclose(found, dense[:, column], rtol=1e-6, atol=1e-12)
