"""The state of a UnifiedEmbedding: saved, restored, copied, moved, and refused where it differs."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from features.errors import ConfigError, DataError, SnapshotError
from tests.trainer.embeddings import FEATURES, FUSED, draw, make, saved_bytes, train


@pytest.mark.parametrize("optimizer", [*FUSED, None])
def test_a_restored_module_trains_on_bit_for_bit(optimizer):
    def model():
        embed = make(optimizer, sparse=optimizer is None)
        return nn.ModuleDict({"embed": embed, "tower": nn.Linear(18, 1)})

    def torch_optimizer(one):
        if optimizer is not None:
            return None
        return torch.optim.SparseAdam(list(one["embed"].parameters()), 0.1)

    first = model()
    first_optimizer = torch_optimizer(first)
    train(first["embed"], 3, optimizer=first_optimizer)
    buffer = saved_bytes(first.state_dict())
    states = None if first_optimizer is None else copy.deepcopy(first_optimizer.state_dict())
    train(first["embed"], 3, first=3, optimizer=first_optimizer)

    second = model()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    second_optimizer = torch_optimizer(second)
    if second_optimizer is not None:
        second_optimizer.load_state_dict(states)
    train(second["embed"], 3, first=3, optimizer=second_optimizer)

    theirs = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(theirs[name], tensor), name


def test_a_state_dict_travels_as_safetensors():
    first, second = make(), make(seed=9)
    train(first)

    blob = save_safetensors({k: v.contiguous() for k, v in first.state_dict().items()})
    second.load_state_dict(load_safetensors(blob))

    assert torch.equal(first.engine.weight, second.engine.weight)
    assert second.engine.step == 3


def test_the_fused_state_dict_has_rows_and_optimizer_state():
    names = {optimizer: set(make(optimizer).state_dict()) for optimizer in FUSED}

    assert names["sgd"] == {"weight", "_extra_state"}
    assert names["rowwise_adagrad"] == names["sgd"] | {"momentum1"}
    assert names["adam"] == names["sgd"] | {"momentum1", "momentum2"}


@pytest.mark.parametrize("there", ["sgd", None])
@pytest.mark.parametrize("here", ["sgd", None])
def test_rows_move_between_the_modes(there, here):
    first, second = make(there), make(here, seed=9)

    second.load_state_dict(first.state_dict())

    assert torch.equal(first.state_dict()["weight"], second.state_dict()["weight"])


def test_rows_alone_are_read_where_the_optimizer_differs_and_strict_is_off():
    first, second = make("adam"), make("adagrad", seed=9)
    train(first)

    with pytest.raises(RuntimeError, match=r'the saved state is of "adam"'):
        second.load_state_dict(first.state_dict())
    second.load_state_dict(first.state_dict(), strict=False)

    assert torch.equal(first.engine.weight, second.engine.weight)
    assert not second.engine.tensors()["momentum1"].any()


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", None])
def test_missing_and_unexpected_keys_are_reported_and_nothing_is_read(optimizer):
    first, second = make(optimizer, seed=1), make(optimizer, seed=2)
    before = second.state_dict()["weight"].clone()

    for drop, add in (("weight", None), ("_extra_state", None), (None, "weights")):
        state = dict(first.state_dict())
        if drop:
            del state[drop]
        if add:
            state[add] = torch.zeros(1)
        with pytest.raises(RuntimeError, match=drop or add):
            second.load_state_dict(state)
        if drop == "weight":
            assert torch.equal(second.state_dict()["weight"], before)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", None])
def test_rows_of_another_shape_are_reported(optimizer):
    embed = make(optimizer)
    state = dict(embed.state_dict())
    state["weight"] = torch.zeros(7, 3)

    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        embed.load_state_dict(state)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", None])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hash_seed": 1}, "hash_seed is 1 there and 0 here"),
        ({"rows": 201}, "rows is 201 there and 200 here"),
        ({"width": 4}, "width is 4 there and 3 here"),
        ({"features": {**FEATURES, "user": 1}}, "features differ"),
        ({"features": {**FEATURES, "more": 1}}, "features differ"),
    ],
)
def test_rows_of_another_layout_are_refused_before_reading(optimizer, change, message):
    embed = make(optimizer)
    before = embed.state_dict()["weight"].clone()

    with pytest.raises(SnapshotError, match=message):
        embed.load_state_dict(make(optimizer, **change).state_dict())

    assert torch.equal(embed.state_dict()["weight"], before)


@pytest.mark.parametrize(
    "extra",
    [
        {"format": 1},
        torch.zeros(3),
        torch.zeros(0, dtype=torch.uint8),
        torch.tensor(list(b"[" * 5000), dtype=torch.uint8),
        torch.tensor(list(b'{"format": 2}'), dtype=torch.uint8),
    ],
    ids=["dict", "floats", "empty", "nested", "format"],
)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", None])
def test_a_damaged_extra_state_is_refused(optimizer, extra):
    embed = make(optimizer)

    with pytest.raises(SnapshotError, match="_extra_state"):
        embed.load_state_dict({**embed.state_dict(), "_extra_state": extra})


def test_a_restored_module_knows_integers_from_strings():
    first, second = make(), make()
    first(draw())

    second.load_state_dict(first.state_dict())

    with pytest.raises(DataError, match='"item" holds integers, but has held strings'):
        second({**draw(), "item": [1, 2, 3, 4, 5, 6]})


# Copies, moves, pickles.


@pytest.mark.parametrize("optimizer", ["adam", None])
def test_deep_copies_share_nothing(optimizer):
    embed = make(optimizer)
    if optimizer is not None:
        train(embed)

    other = copy.deepcopy(embed)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    train(embed, optimizer=None if optimizer else torch.optim.SGD(embed.parameters(), 0.1))

    for name, tensor in before.items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert not torch.equal(embed.state_dict()["weight"], before["weight"])
    assert other(draw()).shape == (6, 18)


@pytest.mark.parametrize(
    "move",
    [
        lambda module: module.half(),
        lambda module: module.double(),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to("meta"),
    ],
    ids=["half", "double", "bfloat16", "meta"],
)
def test_moves_that_a_fused_table_cannot_follow_are_refused(move):
    embed = make()
    before = embed.engine.weight.clone()

    with pytest.raises(ConfigError, match="fused table stays float32 on cpu"):
        move(nn.Sequential(embed))

    assert torch.equal(embed.engine.weight, before)


def test_moves_to_where_it_is_are_fine():
    embed = make()

    same = embed.to("cpu").float().train()

    assert same is embed
    assert embed(draw()).dtype == torch.float32


def test_a_parameter_follows_every_move():
    embed = make(None).double()

    vectors = embed(draw())

    assert vectors.dtype == embed.weight.dtype == torch.float64


def test_fused_modules_are_never_pickled():
    with pytest.raises(ConfigError, match="pickled"):
        pickle.dumps(make())
