import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native import kernels, memory, reference
from tests.native.arrays import available, instruction_set, spread

OPTIMIZERS = ["rowwise_adagrad", "adagrad", "adam", "sgd"]
WIDTHS = [1, 2, 4, 7, 8, 15, 16, 30, 32, 33, 48, 50, 64, 65, 100, 112, 128, 129, 1024]


def table_of(rows, width, seed=0):
    table = memory.allocate(rows, width)
    table[:] = np.random.default_rng(seed).standard_normal((rows, width))
    return table


def states_of(optimizer, rows, width, seed=1):
    shapes = {
        "rowwise_adagrad": [(rows,)],
        "adagrad": [(rows, width)],
        "adam": [(rows, width)] * 2,
        "sgd": [],
    }[optimizer]
    rng = np.random.default_rng(seed)
    return tuple(rng.random(shape).astype(np.float32) for shape in shapes)


def offsets_of(num_samples, num_values, rng):
    inner = np.sort(rng.integers(0, num_values + 1, num_samples - 1)) if num_samples else []
    return np.array([0, *inner, num_values] if num_samples else [0], np.int64)


def batch_of(table_rows, width, num_samples, lookups, bag_lookups, num_values, seed=2):
    """Returns (rows, columns, bags, grad): few rows, so that lookups and bags share them."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, table_rows, (lookups, num_samples))
    columns = np.arange(lookups) * (width + 1)
    column = lookups * (width + 1)
    bags = []
    for mean in (True, False):
        values = num_values if num_samples else 0
        bag_rows = rng.integers(0, table_rows, (bag_lookups, values))
        bags.append((bag_rows, offsets_of(num_samples, values, rng), mean, column))
        column += bag_lookups * width
    grad = rng.standard_normal((num_samples, column + 2)).astype(np.float32)
    return rows, columns, bags, grad


def copies(table, states):
    return np.array(table), tuple(state.copy() for state in states)


def after_update(optimizer, table, states, batch, threads=1, step=3):
    table, states = copies(table, states)
    count = kernels.update(optimizer, table, states, *batch, 0.1, step=step, threads=threads)
    return count, table, states


def equal(one, other):
    return (
        one[0] == other[0]
        and np.array_equal(one[1], other[1])
        and all(np.array_equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    )


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("num_samples", "lookups"), [(0, 3), (1, 1), (37, 3), (5, 300)])
def test_gather_copies_the_rows_and_nothing_else(isa, width, num_samples, lookups):
    table = table_of(50, width)
    rows, columns, _, _ = batch_of(50, width, num_samples, lookups, 0, 0)
    shape = (num_samples, lookups * (width + 1) + 2)
    out, expected = np.full(shape, 9, np.float32), np.full(shape, 9, np.float32)

    with instruction_set(isa):
        kernels.gather(table, rows, columns, out, threads=2)

    reference.gather(table, rows, columns, expected)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("width", [16, 30, 32])
def test_outputs_larger_than_the_caches_hold_the_same_rows(isa, width):
    # 26 MiB and more: where the kernel writes around the caches, if the width allows it.
    lookups, num_samples = 8, 27_000 * 32 // width
    table, rng = table_of(1000, width), np.random.default_rng(0)
    rows, columns = rng.integers(0, 1000, (lookups, num_samples)), np.arange(lookups) * width
    out = memory.allocate(num_samples, lookups * width)

    with instruction_set(isa):
        kernels.gather(table, rows, columns, out, threads=2)

    assert np.array_equal(out.reshape(num_samples, lookups, width), table[rows.T])


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mean", [True, False])
def test_bags_pool_as_the_twin_does(isa, width, mean):
    table, rng = table_of(50, width), np.random.default_rng(3)
    rows, offsets = rng.integers(0, 50, (2, 90)), offsets_of(40, 90, rng)
    out = np.full((40, 2 * width + 5), 9, np.float32)
    expected = out.copy()

    with instruction_set(isa):
        kernels.gather_bags(table, rows, offsets, mean, 3, out, threads=3)

    reference.gather_bags(table, rows, offsets, mean, 3, expected)
    assert np.array_equal(out, expected)


def test_many_bags_are_shared_out_to_threads():
    table, rng = table_of(100, 20), np.random.default_rng(3)
    rows, offsets = rng.integers(0, 100, (2, 9000)), offsets_of(3000, 9000, rng)
    outs = [np.zeros((3000, 40), np.float32) for _ in range(3)]

    for threads, out in enumerate(outs, 1):
        kernels.gather_bags(table, rows, offsets, True, 0, out, threads)

    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])


def test_an_empty_bag_gives_zeros_and_a_bag_of_one_the_row():
    table = table_of(4, 3)
    out = np.full((3, 3), 9, np.float32)

    kernels.gather_bags(table, np.array([[2, 1, 1]]), np.array([0, 0, 1, 3]), True, 0, out)

    assert out.tolist() == [[0, 0, 0], table[2].tolist(), table[1].tolist()]


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_step_is_that_of_the_twin_bit_for_bit(isa, optimizer, width):
    table, states = table_of(40, width), states_of(optimizer, 40, width)
    batch = batch_of(40, width, num_samples=23, lookups=3, bag_lookups=2, num_values=50)
    expected_table, expected_states = copies(table, states)

    with instruction_set(isa):
        result = after_update(optimizer, table, states, batch)

    count = reference.update(optimizer, expected_table, expected_states, *batch, 0.1, step=3)
    assert equal(result, (count, expected_table, expected_states))


@settings(deadline=None)
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    table_rows=st.integers(1, 60),
    width=st.integers(1, 40),
    num_samples=st.integers(0, 30),
    lookups=st.integers(0, 4),
    bag_lookups=st.integers(0, 3),
    num_values=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_any_batch_steps_as_the_twin(
    optimizer, table_rows, width, num_samples, lookups, bag_lookups, num_values, seed
):
    table, states = table_of(table_rows, width), states_of(optimizer, table_rows, width)
    batch = batch_of(table_rows, width, num_samples, lookups, bag_lookups, num_values, seed)
    expected_table, expected_states = copies(table, states)

    result = after_update(optimizer, table, states, batch, threads=2)

    count = reference.update(optimizer, expected_table, expected_states, *batch, 0.1, step=3)
    assert equal(result, (count, expected_table, expected_states))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("table_rows", [7, 5000, 1 << 20, 1 << 27])
def test_every_thread_count_and_instruction_set_gives_the_same_bits(optimizer, table_rows):
    # Large enough to be cut for three threads; the largest table's rows are hashed, not indexed.
    width, rng = 2, np.random.default_rng(0)
    table = memory.allocate(table_rows, width)
    vectors = 1 if optimizer == "rowwise_adagrad" else width
    count = len(states_of(optimizer, 1, 1))
    rows, columns, bags, grad = batch_of(table_rows, width, 4000, 4, 2, 6000)
    rows[0] = rng.integers(0, min(table_rows, 3), 4000)  # some rows are hot
    touched = np.unique(np.concatenate([rows.ravel(), *(bag[0].ravel() for bag in bags)]))
    results = []

    for isa in available():
        for threads in (1, 2, 3):
            states = [memory.allocate(table_rows, vectors) for _ in range(count)]
            arrays = [table, *states]
            for place, array in enumerate(arrays):
                array[touched] = 0.1 * (place + touched[:, None] % 11)
            if optimizer == "rowwise_adagrad":
                states = [state.reshape(-1) for state in states]
            with instruction_set(isa):
                unique = kernels.update(
                    optimizer, table, tuple(states), rows, columns, bags, grad, 0.1, threads=threads
                )
            results.append([unique, *(array[touched].tobytes() for array in arrays)])

    assert results[0][0] == len(touched)
    assert all(result == results[0] for result in results)


def test_a_row_of_many_gradients_gets_their_plain_sum():
    table, grad = np.zeros((3, 2), np.float32), np.ones((500, 6), np.float32)
    rows, columns = np.ones((2, 500), np.int64), np.array([0, 2])
    bag = (np.ones((1, 500), np.int64), np.arange(501), False, 4)

    count = kernels.update("sgd", table, (), rows, columns, [bag], grad, 1.0)

    assert count == 1
    assert table.tolist() == [[0, 0], [-1500, -1500], [0, 0]]


def test_a_mean_shares_its_gradient_among_its_values():
    table, grad = np.zeros((5, 1), np.float32), np.array([[6.0], [5.0]], np.float32)
    bag = (np.array([[0, 1, 1, 2]]), np.array([0, 3, 4]), True, 0)

    kernels.update(
        "sgd", table, (), np.zeros((0, 2), np.int64), np.zeros(0, np.int64), [bag], grad, 1.0
    )

    assert table.ravel().tolist() == [-2, -4, -5, 0, 0]


def test_only_looked_up_rows_change():
    table, states = table_of(100, 8), states_of("adam", 100, 8)
    rows = np.array([[3, 50, 3]])
    before = np.array(table)

    kernels.update("adam", table, states, rows, np.array([0]), [], np.ones((3, 8), np.float32), 0.1)

    changed = np.flatnonzero((table != before).any(axis=1))
    assert changed.tolist() == [3, 50]


def test_nothing_looked_up_changes_nothing():
    table = table_of(4, 3)
    before = np.array(table)

    count = kernels.update(
        "sgd",
        table,
        (),
        np.zeros((2, 0), np.int64),
        np.array([0, 3]),
        [],
        np.zeros((0, 6), np.float32),
        1.0,
    )

    assert count == 0
    assert np.array_equal(table, before)


# torch warns of its sparse tensors once a process.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("width", [4, 30])
@pytest.mark.parametrize(
    ("optimizer", "theirs"),
    [
        ("adam", lambda p: torch.optim.SparseAdam([p], lr=0.1)),
        ("sgd", lambda p: torch.optim.SGD([p], lr=0.1)),
        ("adagrad", lambda p: torch.optim.Adagrad([p], lr=0.1, eps=1e-8)),
    ],
)
def test_steps_follow_those_of_torch(width, optimizer, theirs):
    table, states = table_of(30, width), states_of(optimizer, 30, width)
    for state in states:
        state[:] = 0
    weight = torch.nn.Embedding.from_pretrained(
        torch.from_numpy(np.array(table)), freeze=False, sparse=True
    )
    torch_optimizer = theirs(weight.weight)
    rng = np.random.default_rng(0)

    for step in range(1, 6):
        # SparseAdam moves only the rows of its step, as we do.
        rows = rng.integers(0, 30, (2, 20))
        grad = rng.standard_normal((20, 2 * width)).astype(np.float32)
        torch_optimizer.zero_grad()
        out = torch.cat([weight(torch.from_numpy(row)) for row in rows], dim=1)
        out.backward(torch.from_numpy(grad))
        torch_optimizer.step()
        columns = np.array([0, width])
        kernels.update(optimizer, table, states, rows, columns, [], grad, 0.1, step=step)

    assert np.abs(table - weight.weight.detach().numpy()).max() < 1e-5


def test_tables_states_rows_and_gradients_may_have_rows_that_lie_apart():
    width = 30
    table, states = table_of(40, width), states_of("adam", 40, width)
    rows, columns, bags, grad = batch_of(40, width, 23, 3, 2, 50)
    expected = after_update("adam", table, states, (rows, columns, bags, grad))
    apart, apart_states = spread(np.array(table)), tuple(spread(state, 7) for state in states)
    bags = [(spread(bag[0]), *bag[1:]) for bag in bags]

    count = kernels.update(
        "adam", apart, apart_states, spread(rows), columns, bags, spread(grad), 0.1, step=3
    )

    assert equal((count, apart, apart_states), expected)
    for array in (apart, *apart_states):
        assert (array.base[:, width:] == 99).all()


def test_steps_on_several_tables_at_once_do_not_meet():
    batch = batch_of(3000, 16, 2000, 4, 1, 3000)
    tables = [table_of(3000, 16, seed) for seed in range(4)]
    expected = [
        after_update("adagrad", t, states_of("adagrad", 3000, 16), batch)[1] for t in tables
    ]

    def train(table):
        kernels.update("adagrad", table, states_of("adagrad", 3000, 16), *batch, 0.1, threads=2)

    workers = [threading.Thread(target=train, args=(table,)) for table in tables]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert all(np.array_equal(t, e) for t, e in zip(tables, expected, strict=True))


def arguments(optimizer="sgd"):
    rows, columns, bags, grad = batch_of(
        10, 4, num_samples=6, lookups=2, bag_lookups=1, num_values=8
    )
    return {
        "table": table_of(10, 4),
        "states": states_of(optimizer, 10, 4),
        "rows": rows,
        "columns": columns,
        "bags": bags,
        "grad": grad,
    }


def with_bag(position, value):
    bag = list(arguments()["bags"][0])
    bag[position] = value
    return [tuple(bag)]


@pytest.mark.parametrize("row", [-1, 10, 2**40, -(2**63)])
@pytest.mark.parametrize("where", ["rows", "bag"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_row_outside_the_table_is_named_and_nothing_is_written(row, where, optimizer):
    given = arguments(optimizer)
    if where == "rows":
        given["rows"][1, 4] = row
    else:
        given["bags"][0][0][0, 7] = row
    before = copies(given["table"], given["states"])

    name = r"rows\[1, 4\]" if where == "rows" else r"bags\[0\].rows\[0, 7\]"
    with pytest.raises(IndexError, match=rf"{name} is {row}, the table has 10 rows"):
        kernels.update(optimizer, **given, learning_rate=1.0, threads=2)

    assert equal((0, given["table"], given["states"]), (0, *before))


@pytest.mark.parametrize("row", [-1, 10, 2**62])
def test_gather_names_a_row_outside_the_table_and_writes_nothing(row):
    given = arguments()
    given["rows"][0, 5] = row
    out = np.full((6, 40), 9, np.float32)

    with pytest.raises(IndexError, match=rf"rows\[0, 5\] is {row}, the table has 10 rows"):
        kernels.gather(given["table"], given["rows"], given["columns"], out)
    with pytest.raises(IndexError, match=rf"rows\[0, 5\] is {row}"):
        kernels.gather_bags(given["table"], given["rows"], np.arange(7), True, 0, out)

    assert (out == 9).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"table": np.zeros((10, 4))}, TypeError, "table holds float64"),
        ({"table": torch.zeros(10, 4)}, TypeError, "table is a Tensor"),
        ({"rows": np.zeros((2, 6), np.int32)}, TypeError, "rows holds int32"),
        ({"rows": np.zeros((2, 6))}, TypeError, "rows holds float64"),
        ({"columns": np.zeros(2, np.int32)}, TypeError, "columns holds int32"),
        ({"grad": np.zeros((6, 18))}, TypeError, "grad holds float64"),
        (
            {"bags": with_bag(0, np.zeros((1, 8), np.int32))},
            TypeError,
            r"bags\[0\].rows holds int32",
        ),
        ({"bags": with_bag(1, np.zeros(7, np.int32))}, TypeError, r"bags\[0\].offsets holds int32"),
        ({"table": np.zeros((10, 8), np.float32)[:, ::2]}, ValueError, "table has gaps"),
        ({"table": np.zeros((4, 10), np.float32).T}, ValueError, "table has gaps"),
        ({"table": np.zeros((10, 1025), np.float32)}, ValueError, "table has width 1025"),
        ({"table": np.zeros((10, 0), np.float32)}, ValueError, "table has width 0"),
        ({"grad": np.zeros((18, 6), np.float32).T}, ValueError, "grad has gaps"),
        ({"grad": np.zeros((5, 18), np.float32)}, ValueError, "rows has length 6, expected 5"),
        ({"rows": np.zeros((6, 2), np.int64).T}, ValueError, "rows has gaps"),
        ({"rows": np.zeros(12, np.int64)}, ValueError, "rows has 1 axes"),
        ({"columns": np.zeros(3, np.int64)}, ValueError, "columns has length 3, expected 2"),
        ({"columns": np.zeros(4, np.int64)[::2]}, ValueError, "columns has gaps"),
        ({"columns": np.array([0, 17])}, IndexError, r"columns\[1\] is 17"),
        ({"columns": np.array([-1, 0])}, IndexError, r"columns\[0\] is -1"),
        ({"bags": with_bag(1, np.zeros(6, np.int64))}, ValueError, "offsets has length 6"),
        ({"bags": with_bag(1, np.array([0, 2, 1, 3, 3, 4, 8]))}, ValueError, "offsets fall"),
        (
            {"bags": with_bag(1, np.array([0, 1, 1, 3, 3, 4, 9]))},
            ValueError,
            "offsets fall or leave",
        ),
        ({"bags": with_bag(1, np.array([-1, 1, 1, 3, 3, 4, 8]))}, ValueError, "offsets fall"),
        ({"bags": with_bag(3, 17)}, IndexError, "column is 17"),
        ({"bags": with_bag(3, -1)}, IndexError, "column is -1"),
        (
            {"states": (np.zeros((10, 4), np.float32),)},
            ValueError,
            "states has length 1, expected 0",
        ),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"optimizer": "rmsprop"}, ValueError, '"rmsprop" is none of rowwise_adagrad'),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_written(change, error, message):
    given = {"optimizer": "sgd", **arguments(), "learning_rate": 1.0}
    before = np.array(given["table"])

    with pytest.raises(error, match=message):
        kernels.update(**{**given, **change})

    assert np.array_equal(given["table"], before)


@pytest.mark.parametrize(
    ("optimizer", "states", "error", "message"),
    [
        ("adagrad", (np.zeros((10, 4)),), TypeError, r"states\[0\] holds float64"),
        (
            "adagrad",
            (np.zeros((9, 4), "f4"),),
            ValueError,
            r"states\[0\] has length 9, expected 10",
        ),
        ("adagrad", (np.zeros((10, 5), "f4"),), ValueError, r"inner axis of states\[0\]"),
        ("adagrad", (np.zeros(10, "f4"),), ValueError, r"states\[0\] has 1 axes"),
        ("adagrad", (), ValueError, "states has length 0, expected 1"),
        ("rowwise_adagrad", (np.zeros((10, 4), "f4"),), ValueError, r"states\[0\] has 2 axes"),
        ("rowwise_adagrad", (np.zeros(11, "f4"),), ValueError, r"states\[0\] has length 11"),
        ("adam", (np.zeros((10, 4), "f4"),), ValueError, "states has length 1, expected 2"),
    ],
)
def test_states_that_are_not_the_optimizers_are_refused(optimizer, states, error, message):
    given = {**arguments(), "states": states}

    with pytest.raises(error, match=message):
        kernels.update(optimizer, **given, learning_rate=1.0)


@pytest.mark.parametrize("name", ["table", "states"])
def test_what_a_step_writes_must_be_writable(name):
    given = arguments("adagrad")
    for array in [given["table"]] if name == "table" else given["states"]:
        array.flags.writeable = False

    with pytest.raises(ValueError, match=f"{name}.* is read-only"):
        kernels.update("adagrad", **given, learning_rate=1.0)


def test_what_a_step_reads_may_be_read_only():
    given = arguments("sgd")
    for array in (given["rows"], given["columns"], given["grad"], *given["bags"][0][:2]):
        array.flags.writeable = False

    assert kernels.update("sgd", **given, learning_rate=1.0) > 0


def test_adam_counts_its_steps_from_one():
    with pytest.raises(ValueError, match="step is 0"):
        kernels.update("adam", **arguments("adam"), learning_rate=1.0, step=0)


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        kernels.choose("sse9")
