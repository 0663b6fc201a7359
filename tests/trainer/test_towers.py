import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from features.errors import ConfigError
from trainer.settings import TowerSettings
from trainer.tower_size import num_parameters
from trainer.towers import DlrmTower, Tower, build_tower

KINDS = [
    {"kind": "mlp"},
    {"kind": "dcnv2"},
    {"kind": "dcnv2", "structure": "parallel", "cross_layers": 3},
    {"kind": "dcnv2", "low_rank": 3},
    {"kind": "dlrm"},
    {"kind": "dlrm", "projection": 5, "bottom": []},
]


def count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


def inputs(widths: list[int], num_dense: int, batch: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.empty(batch, sum(widths)).normal_(generator=generator)
    return embeddings, torch.empty(batch, num_dense).normal_(generator=generator)


def doubled(tower: Tower) -> dict[str, Tensor]:
    return {name: value.detach().double() for name, value in tower.named_parameters()}


def mlp(weights: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    layer = 0
    while f"{prefix}.layers.{layer}.weight" in weights:
        name = f"{prefix}.layers.{layer}"
        x = (x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).clamp(min=0)
        layer += 1
    return x


def test_the_network_of_ml1m_has_67525_parameters() -> None:
    ml1m = TowerSettings(kind="dcnv2", cross_layers=1, hidden=[192])

    tower = build_tower(ml1m, [30] * 6, 0, seed=0)

    assert count(tower) == 67_525
    assert num_parameters(ml1m, [30] * 6, 0) == 67_525


@given(
    kind=st.sampled_from(KINDS),
    widths=st.lists(st.integers(1, 9), max_size=5),
    num_dense=st.integers(0, 4),
    hidden=st.lists(st.integers(1, 8), max_size=3),
)
@settings(deadline=None)
def test_every_tower_gives_one_logit_a_sample_and_its_planned_size(
    kind, widths, num_dense, hidden
) -> None:
    chosen = TowerSettings(hidden=hidden, **kind)
    if not widths and not num_dense:
        return

    tower = build_tower(chosen, widths, num_dense, seed=3)
    logits = tower(*inputs(widths, num_dense))
    logits.sum().backward()

    assert logits.shape == (7,)
    assert count(tower) == num_parameters(chosen, widths, num_dense)
    assert all(parameter.grad is not None for parameter in tower.parameters())


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize("low_rank", [None, 4])
def test_dcnv2_is_its_formula(structure, low_rank) -> None:
    chosen = TowerSettings(structure=structure, low_rank=low_rank, cross_layers=2, hidden=[8, 5])
    tower = build_tower(chosen, [6, 4], 3, seed=0)
    nn.init.normal_(tower.cross[0].full.bias)
    embeddings, dense = inputs([6, 4], 3)

    logits = tower(embeddings, dense)

    weights = doubled(tower)
    start = crossed = torch.cat([embeddings, dense], 1).double()
    for layer in range(2):
        matrix = weights[f"cross.{layer}.full.weight"]
        if low_rank:
            matrix = matrix @ weights[f"cross.{layer}.thin.weight"]
        crossed = start * (crossed @ matrix.T + weights[f"cross.{layer}.full.bias"]) + crossed
    if structure == "stacked":
        last = mlp(weights, "deep", crossed)
    else:
        last = torch.cat([crossed, mlp(weights, "deep", start)], 1)
    expected = last @ weights["head.weight"][0] + weights["head.bias"]
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_dense", [0, 3])
def test_dlrm_is_its_formula(num_dense) -> None:
    chosen = TowerSettings(kind="dlrm", bottom=[7], hidden=[8])
    tower = build_tower(chosen, [6, 4, 6], num_dense, seed=0)
    embeddings, dense = inputs([6, 4, 6], num_dense)

    logits = tower(embeddings, dense)

    weights, wide = doubled(tower), embeddings.double()
    if num_dense:
        first = mlp(weights, "bottom", dense.double())
    else:
        first = weights["constant"].expand(7, -1)
    vectors = [
        first,
        wide[:, :6],
        wide[:, 6:10] @ weights["project.1.weight"].T,
        wide[:, 10:],
    ]
    dots = [(vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i)]
    joined = torch.stack(dots, 1)
    if num_dense:
        joined = torch.cat([first, joined], 1)
    expected = mlp(weights, "deep", joined) @ weights["head.weight"][0] + weights["head.bias"]
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_dlrm_projects_only_features_of_another_width() -> None:
    equal = build_tower(TowerSettings(kind="dlrm"), [8, 8, 8], 2, seed=0)
    mixed = build_tower(TowerSettings(kind="dlrm"), [8, 16, 8], 2, seed=0)

    assert isinstance(equal, DlrmTower)
    assert isinstance(mixed, DlrmTower)
    assert not list(equal.project.parameters())
    assert [tuple(p.shape) for p in mixed.project.parameters()] == [(16, 8), (16, 8)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_a_function_of_the_seed_alone(kind) -> None:
    chosen = TowerSettings(**kind)
    torch.manual_seed(0)
    first = build_tower(chosen, [4, 6], 2, seed=5)
    untouched = torch.rand(3)
    torch.manual_seed(0)
    expected = torch.rand(3)

    again = build_tower(chosen, [4, 6], 2, seed=5)
    other = build_tower(chosen, [4, 6], 2, seed=6)

    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(next(iter(first.parameters())), next(iter(other.parameters())))
    assert torch.equal(untouched, expected)


def test_matrices_start_xavier_normal_and_biases_zero() -> None:
    tower = build_tower(TowerSettings(kind="mlp", hidden=[400]), [300], 0, seed=0)

    matrix = tower.deep.layers[0].weight

    assert matrix.std().item() == pytest.approx((2 / 700) ** 0.5, rel=0.02)
    assert not tower.deep.layers[0].bias.any()
    assert not tower.head.bias.any()


def test_dropout_is_a_function_of_seed_and_step() -> None:
    tower = build_tower(TowerSettings(kind="mlp", hidden=[64, 64], dropout=0.5), [8], 0, seed=0)
    batch = inputs([8], 0)

    def run(seed: int, step: int) -> Tensor:
        tower.seed_dropout(seed, step, [(0, len(batch[0]))])
        return tower(*batch)

    first, later = run(1, 10), run(1, 11)
    torch.manual_seed(99)

    assert torch.equal(run(1, 10), first)
    assert torch.equal(run(1, 11), later)
    assert not torch.equal(first, later)
    assert not torch.equal(run(2, 10), first)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation() -> None:
    tower = build_tower(TowerSettings(kind="mlp", hidden=[16], dropout=0.3), [4], 0, seed=0)
    ones = torch.ones(200, 500)

    tower.seed_dropout(0, 0, [(0, 150), (3, 50)])
    mask = tower.noise.mask(ones, 0.3)
    tower.eval()
    batch = inputs([4], 0)

    assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert mask.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(tower(*batch), tower(*batch))


def test_a_tower_without_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="the tower has no input"):
        build_tower(TowerSettings(), [], 0, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_rows_passes(kind) -> None:
    tower = build_tower(TowerSettings(**kind), [4, 6], 2, seed=0)

    logits = tower(*inputs([4, 6], 2, batch=0))

    assert logits.shape == (0,)
