import math

import numpy as np
import pytest
import torch

from features.parquet import open_dataset
from features.routing import Layout
from features.schema import FeatureSet
from features.settings import FeaturesSettings, TableSettings
from tests.features.statistics_of import Seen, counted
from tests.trainer.clicks import clicks_job, write_clicks
from trainer.evaluate import load_model
from trainer.inspection_angles import Angles, angles_between, places
from trainer.inspection_gradients import gradient_angles
from trainer.inspection_layers import layer_angles
from trainer.representations.registry import build_layout
from trainer.settings import TowerSettings
from trainer.towers import build_tower
from trainer.train import train

WIDTH = 4


def layout_of(lookups: int = 1, **table: object) -> Layout:
    settings = TableSettings.model_validate(
        {"rows": 100, "width": WIDTH, "lookups": lookups, "exact_below": 0, **table}
    )
    names = FeaturesSettings(categorical=["user", "item"])
    seen = Seen({"user": counted(500), "item": counted(300)})
    return build_layout(FeatureSet.build(None, names, {}, settings), seen, settings)


def parameters_of(layout: Layout, num_dense: int = 2, **tower: object) -> dict[str, np.ndarray]:
    widths = [route.width_total for route in layout.routes]
    built = build_tower(TowerSettings.model_validate(tower), widths, num_dense, seed=3)
    return {name: value.detach().numpy() for name, value in built.named_parameters()}


def measured(layout: Layout, parameters: dict[str, np.ndarray]) -> Angles:
    angles = layer_angles(layout, parameters)
    assert isinstance(angles, Angles), angles
    return angles


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return math.degrees(math.acos(np.linalg.norm(a @ b.T) / np.linalg.norm(a) / np.linalg.norm(b)))


def test_readers_of_one_direction_have_the_angle_of_the_two_lines() -> None:
    layout = layout_of()
    theta = np.array([[1.0, 0, 0, 0, -math.cos(0.3), math.sin(0.3), 0, 0, 7, 7]], np.float32)

    angles = measured(layout, {"head.weight": theta, "head.bias": np.zeros(1, np.float32)})

    assert angles.readers == (("user", 0), ("item", 0))
    assert angles.mean == pytest.approx(math.degrees(0.3), abs=1e-4)
    assert angles.mean_main_direction == pytest.approx(math.degrees(0.3), abs=1e-4)
    assert angles.matrix[0][0] is None
    assert angles.matrix[0][1] == angles.mean


def test_readers_of_apart_directions_are_at_right_angles_and_even_ones_at_a_known_one() -> None:
    layout = layout_of()
    found = places(layout)
    assert not isinstance(found, str)
    halves = np.diag([1.0, 1, 0, 0]), np.diag([0.0, 0, 1, 1])
    keys = ("user", 0), ("item", 0)

    apart = angles_between(found, dict(zip(keys, halves, strict=True)), "")
    even = angles_between(found, dict.fromkeys(keys, np.eye(4)), "")

    assert apart.mean == pytest.approx(90)
    assert even.mean == pytest.approx(even.uniform) == pytest.approx(60)


@pytest.mark.parametrize(
    ("tower", "taken"),
    [
        ({"kind": "mlp", "hidden": [9]}, ["deep.layers.0"]),
        ({"kind": "mlp", "hidden": []}, ["head"]),
        ({"kind": "dcnv2", "hidden": [9]}, ["cross.0.full", "deep.layers.0"]),
        ({"kind": "dcnv2", "hidden": []}, ["cross.0.full", "head"]),
        (
            {"kind": "dcnv2", "hidden": [9, 5], "structure": "parallel"},
            ["cross.0.full", "deep.layers.0", "head"],
        ),
    ],
)
def test_the_layers_that_read_the_input_are_stacked(tower, taken) -> None:
    layout = layout_of(lookups=2)
    parameters = parameters_of(layout, **tower)
    stacked = np.concatenate([parameters[f"{name}.weight"][:, : 4 * WIDTH] for name in taken])

    angles = measured(layout, parameters)

    blocks = [stacked[:, i * WIDTH : (i + 1) * WIDTH].astype(np.float64) for i in range(4)]
    assert angles.of == "columns of " + ", ".join(f"{name}.weight" for name in taken)
    for i, row in enumerate(angles.matrix):
        for j, found in enumerate(row):
            expected = None if i == j else pytest.approx(angle(blocks[i], blocks[j]), abs=1e-4)
            assert found == expected
    assert angles.num_pairs == 6
    assert angles.nearest[0].angle == min(each for row in angles.matrix for each in row if each)


def test_a_thin_cross_matrix_is_the_product_of_its_two() -> None:
    layout = layout_of()
    parameters = parameters_of(layout, kind="dcnv2", low_rank=2, hidden=[9])
    product = parameters["cross.0.full.weight"] @ parameters["cross.0.thin.weight"]

    angles = measured(layout, parameters)

    whole = np.concatenate([product, parameters["deep.layers.0.weight"]])
    assert angles.mean == pytest.approx(angle(whole[:, :4], whole[:, 4:8]), abs=1e-3)


@pytest.mark.parametrize("num_dense", [0, 2])
def test_a_dlrm_is_read_by_its_projections(num_dense) -> None:
    layout = layout_of(lookups=2)
    parameters = parameters_of(layout, num_dense, kind="dlrm", projection=5, hidden=[4])
    user, item = parameters["project.0.weight"], parameters["project.1.weight"]

    angles = measured(layout, parameters)
    plain = layer_angles(layout, parameters_of(layout, num_dense, kind="dlrm", hidden=[4]))

    assert angles.matrix[0][1] == pytest.approx(angle(user[:, :4], user[:, 4:]), abs=1e-4)
    assert angles.matrix[1][2] == pytest.approx(angle(user[:, 4:], item[:, :4]), abs=1e-4)
    assert plain == "The tower takes all vectors as they are: no layer reads them."


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"multiplexed": False}, "No two lookups share rows."),
        (
            {"method": "robe", "width": 8},
            "Its method makes vectors of rows in a way that no angle between readers describes.",
        ),
    ],
)
def test_where_there_are_no_angles_it_says_why(table, why) -> None:
    layout = layout_of(**table)

    assert layer_angles(layout, parameters_of(layout, kind="mlp")) == why


def test_gradients_of_a_linear_tower_are_its_weights(tmp_path) -> None:
    write_clicks(tmp_path)
    job = clicks_job(table={"exact_below": 0}, tower={"kind": "mlp", "hidden": [], "dropout": 0.0})
    trained = load_model(train(job, tmp_path / "run", tmp_path).run)
    tower = dict(trained.model.tower.named_parameters())
    parameters = {name: value.detach().numpy() for name, value in tower.items()}

    by_data = gradient_angles(trained, open_dataset("valid/*.parquet", tmp_path))
    by_layer = measured(trained.model.layout, parameters)

    assert isinstance(by_data, Angles)
    assert by_data.of == "gradients of the logit over 600 rows"
    assert by_data.readers == by_layer.readers
    found = np.array(by_data.matrix, np.float64)
    assert found == pytest.approx(np.array(by_layer.matrix, np.float64), abs=0.1, nan_ok=True)
    assert all(value.grad is None for value in tower.values())
    assert not torch.is_inference_mode_enabled()
