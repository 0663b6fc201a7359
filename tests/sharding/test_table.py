"""What every engine promises: the backward pass, its refusals, state in and out, creation."""

import copy
import importlib
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from features.errors import ConfigError, PlanError, SnapshotError, TrainingError
from features.routing import Bag, RowBatch
from sharding.table import available_engines, create_engine
from tests.sharding.batches import make_batch, settings

ENGINES = ["fused", "exchange", "torchrec"]
OPTIMIZERS = [
    ("fused", "rowwise_adagrad"),
    ("fused", "adagrad"),
    ("fused", "adam"),
    ("fused", "sgd"),
    ("exchange", "rowwise_adagrad"),
    ("exchange", "adagrad"),
    ("exchange", "adam"),
    ("exchange", "sgd"),
    ("torchrec", "rowwise_adagrad"),
    ("torchrec", "adagrad"),
    ("torchrec", "sgd"),
]
ROWS, WIDTH = 50, 6


def make(name="fused", optimizer="rowwise_adagrad", width=WIDTH, **more):
    return create_engine(name, ROWS, width, settings(optimizer, **more), seed=3, threads=1)


def draw(seed=0, with_bags=False, width=WIDTH):
    return make_batch(np.random.default_rng(seed), 8, 3, width, ROWS, with_bags)


def reader_of(saved):
    def read(name, first, last, out):
        out[...] = saved[name][first:last]

    return read


def saved_state(engine):
    return {name: array.copy() for name, array in engine.state().items()}


# The backward pass.


@pytest.mark.parametrize("name", ENGINES)
def test_backward_trains_the_rows_and_leaves_no_gradient(name):
    engine, batch = make(name), draw()
    before = saved_state(engine)["weight"]

    vectors = engine.lookup(batch)
    vectors.sum().backward()

    touched = np.zeros(ROWS, bool)
    touched[batch.rows] = True
    changed = (engine.state()["weight"] != before).any(1)
    np.testing.assert_array_equal(changed, touched)
    assert engine.weight.grad is None
    assert engine.step == 1


@pytest.mark.parametrize("name", ENGINES)
def test_gradients_of_any_layout_train_alike(name):
    batch = draw()
    gradient = torch.randn(batch.out_width, 8, generator=torch.Generator().manual_seed(0)).t()
    engines = [make(name), make(name)]

    engines[0].lookup(batch).backward(gradient)
    engines[1].lookup(batch).backward(gradient.contiguous())

    assert not gradient.is_contiguous()
    assert torch.equal(engines[0].weight, engines[1].weight)


@pytest.mark.parametrize("name", ENGINES)
def test_two_lookups_before_one_backward_are_two_steps(name):
    batches = [draw(1), draw(2)]
    gradient = torch.ones(8, batches[0].out_width)
    together, apart = make(name), make(name)

    (together.lookup(batches[0]) + together.lookup(batches[1])).sum().backward()
    # Autograd reaches the newest lookup first.
    apart.apply_gradient(batches[1], gradient)
    apart.apply_gradient(batches[0], gradient)

    assert together.step == 2
    assert torch.equal(together.weight, apart.weight)


@pytest.mark.parametrize("name", ENGINES)
def test_a_second_backward_pass_is_refused_and_changes_nothing(name):
    engine = make(name)
    loss = engine.lookup(draw()).square().sum()
    loss.backward(retain_graph=True)
    once = saved_state(engine)

    with pytest.raises(TrainingError, match="second backward pass"):
        loss.backward()

    np.testing.assert_array_equal(engine.state()["weight"], once["weight"])
    assert engine.step == 1


@pytest.mark.parametrize("name", ENGINES)
def test_gradients_of_gradients_are_refused(name):
    engine = make(name)
    before = saved_state(engine)

    with pytest.raises(TrainingError, match="create_graph"):
        engine.lookup(draw()).square().sum().backward(create_graph=True)

    np.testing.assert_array_equal(engine.state()["weight"], before["weight"])


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_gradients_of_another_dtype_are_refused(name, dtype):
    engine, batch = make(name), draw()

    with pytest.raises(ConfigError, match="float32"):
        engine.apply_gradient(batch, torch.ones(8, batch.out_width, dtype=dtype))

    assert engine.step == 0


@pytest.mark.parametrize("name", ENGINES)
def test_gradients_of_another_shape_are_refused(name):
    engine = make(name)

    with pytest.raises(ConfigError, match=r"shape \[7, 18\]"):
        engine.apply_gradient(draw(), torch.ones(7, 18))

    assert engine.step == 0


@pytest.mark.parametrize("name", ENGINES)
def test_autocast_above_the_table_trains_it_in_float32(name):
    engine = make(name)
    tower = torch.nn.Linear(18, 1)

    with torch.autocast("cpu", torch.bfloat16):
        vectors = engine.lookup(draw())
        loss = tower(vectors).sum()
    loss.backward()

    assert vectors.dtype == torch.float32
    assert engine.step == 1


@pytest.mark.parametrize("name", ENGINES)
def test_lookups_without_gradients_only_look_up(name):
    engine, batch = make(name), draw(with_bags=True)
    expected = engine.lookup(batch).detach()

    with torch.no_grad():
        vectors = engine.lookup(batch)

    assert torch.equal(vectors, expected)
    assert not vectors.requires_grad
    assert engine.step == 0


@pytest.mark.parametrize("name", ENGINES)
def test_rows_outside_the_table_are_refused_by_number(name):
    engine = make(name)

    for row in (-1, ROWS):
        batch = RowBatch(1, np.array([[row]]), np.array([0]), (), WIDTH)
        with pytest.raises(IndexError, match=f"is {row}, the table has {ROWS} rows"):
            engine.lookup(batch)


@pytest.mark.parametrize("name", ENGINES)
def test_a_batch_without_samples_is_a_step_that_moves_nothing(name):
    engine = make(name)
    before = saved_state(engine)
    batch = RowBatch(0, np.empty((3, 0), np.int64), np.arange(3) * WIDTH, (), 3 * WIDTH)

    engine.lookup(batch).sum().backward()

    np.testing.assert_array_equal(engine.state()["weight"], before["weight"])
    assert engine.step == 1


@pytest.mark.parametrize("name", ENGINES)
def test_samples_whose_lists_are_all_empty_get_zeros_and_move_nothing(name):
    engine = make(name)
    before = saved_state(engine)
    bag = Bag(np.empty((2, 0), np.int64), np.zeros(4, np.int64), mean=True, column=0)
    batch = RowBatch(3, np.empty((0, 3), np.int64), np.empty(0, np.int64), (bag,), 2 * WIDTH)

    vectors = engine.lookup(batch)
    vectors.sum().backward()

    assert torch.equal(vectors, torch.zeros(3, 2 * WIDTH))
    np.testing.assert_array_equal(engine.state()["weight"], before["weight"])


# The learning rate.


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("name", ENGINES)
def test_learning_rate_counts_from_the_next_lookup(name, width):
    engine = make(name, "sgd", width=width, learning_rate=1.0)
    batch = RowBatch(1, np.array([[5]]), np.array([0]), (), width)
    start = engine.state()["weight"][5].copy()

    vectors = engine.lookup(batch)
    engine.learning_rate = 0.25
    vectors.sum().backward()
    engine.lookup(batch).sum().backward()

    np.testing.assert_allclose(engine.state()["weight"][5], start - 1.25, atol=1e-6)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_senseless_learning_rates_are_refused(value):
    engine = make()

    with pytest.raises(ConfigError, match="learning rate"):
        engine.learning_rate = value

    assert engine.learning_rate == 0.05


# State.


@pytest.mark.parametrize(("name", "optimizer"), OPTIMIZERS)
def test_restored_engines_train_on_bit_for_bit(name, optimizer):
    engine = make(name, optimizer)
    engine.lookup(draw(1)).sum().backward()
    saved, scalars = saved_state(engine), engine.scalars()
    engine.lookup(draw(2)).square().sum().backward()

    restored = create_engine(name, ROWS, WIDTH, settings(optimizer), seed=99, threads=1)
    restored.load_state(reader_of(saved), scalars)
    restored.lookup(draw(2)).square().sum().backward()

    assert restored.step == 2
    for key, array in engine.state().items():
        np.testing.assert_array_equal(restored.state()[key], array)


@pytest.mark.parametrize("width", [15, 16])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
@pytest.mark.parametrize(("saver", "loader"), [("fused", "torchrec"), ("torchrec", "fused")])
def test_one_engine_goes_on_from_the_other_ones_state(saver, loader, optimizer, width):
    first = make(saver, optimizer, width=width)
    first.lookup(draw(1, width=width)).sum().backward()
    saved, scalars = saved_state(first), first.scalars()
    first.lookup(draw(2, width=width)).square().sum().backward()

    second = make(loader, optimizer, width=width)
    second.load_state(reader_of(saved), scalars)
    second.lookup(draw(2, width=width)).square().sum().backward()

    np.testing.assert_allclose(second.state()["weight"], first.state()["weight"], atol=1e-6)


def test_large_states_are_read_in_blocks():
    engine = create_engine("fused", 20_000, 512, settings("sgd"), seed=0, threads=1)
    saved, spans = saved_state(engine), []

    def read(name, first, last, out):
        spans.append((first, last))
        out[...] = saved[name][first:last] + 1

    engine.load_state(read, engine.scalars())

    assert len(spans) > 1
    assert spans[0][0] == 0
    assert spans[-1][1] == 20_000
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    np.testing.assert_array_equal(engine.state()["weight"], saved["weight"] + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adam"}, '"adam"'),
        ({"optimizer": None}, "None"),
        ({"step": -1}, "step -1"),
        ({"step": True}, "step True"),
        ({"step": "3"}, "step '3'"),
        ({"state_width": 0}, "state_width 0"),
        ({"state_width": 1.5}, "state_width 1.5"),
    ],
)
def test_foreign_or_damaged_scalars_are_refused_before_reading(change, message):
    engine = make()

    def read(*_):
        raise AssertionError("nothing may be read")

    with pytest.raises(SnapshotError, match=message):
        engine.load_state(read, engine.scalars() | change)


@pytest.mark.parametrize(("name", "optimizer"), OPTIMIZERS)
def test_copies_share_no_memory_and_train_on_alike(name, optimizer):
    engine = make(name, optimizer)
    engine.lookup(draw(1)).sum().backward()
    engine.learning_rate = 0.01

    other = copy.deepcopy(engine)
    at_copy = saved_state(other)
    engine.lookup(draw(2)).sum().backward()

    for key, array in at_copy.items():
        np.testing.assert_array_equal(other.state()[key], array)
    other.lookup(draw(2)).sum().backward()
    assert torch.equal(other.weight, engine.weight)
    assert (other.step, other.learning_rate) == (2, 0.01)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_are_never_pickled(name):
    engine = make(name)

    with pytest.raises(ConfigError, match="pickled"):
        pickle.dumps(engine)


# Creation.


def test_auto_is_fused_on_a_cpu():
    engine = make("auto")

    assert engine.name == "fused"
    assert engine.num_threads == 1


def test_all_engines_are_available_here():
    assert available_engines() == {"fused": None, "exchange": None, "torchrec": None}


def test_an_engine_that_cannot_be_imported_says_why(monkeypatch):
    real = importlib.import_module

    def broken(name, *rest):
        if name == "sharding.torchrec_engine":
            raise OSError("libfoo.so: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)

    assert available_engines()["torchrec"] == "OSError: libfoo.so: cannot open shared object file"
    with pytest.raises(ConfigError, match=r'libfoo.so.*table.engine = "fused"'):
        make("torchrec")


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="auto, fused, exchange, torchrec"):
        make("fast")


def test_adam_on_fbgemm_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match=r'no Adam.*table.engine = "fused"'):
        make("torchrec", "adam")


@pytest.mark.parametrize("name", ["fused", "exchange"])
def test_our_kernels_refuse_a_gpu(name):
    with pytest.raises(ConfigError, match=r'device is cuda.*table.engine = "torchrec"'):
        create_engine(name, 10, 4, settings("sgd"), seed=0, threads=1, device="cuda")


@pytest.mark.parametrize("name", ENGINES)
def test_a_table_beyond_the_address_space_is_a_plan_error(name):
    with pytest.raises(PlanError, match="bytes"):
        create_engine(name, 2**40, 1024, settings("rowwise_adagrad"), seed=0, threads=1)


def test_initial_values_depend_on_the_seed_alone():
    tables = [
        create_engine("fused", 3_000, 15, settings("sgd"), seed=seed, threads=threads).weight
        for seed, threads in ((1, 1), (1, 3), (2, 1))
    ]

    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert tables[0].abs().max() <= 0.05
