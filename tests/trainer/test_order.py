import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ConfigError, DataError
from tests.golden import make_order_of_data
from tests.trainer import order_reference
from trainer.order import (
    MAX_UNIT_ROWS,
    EpochOrder,
    cut_blocks,
    plan_batches,
    rank_streams,
    row_order,
    seek,
    steps_per_epoch,
)

CASES = json.loads(make_order_of_data.PATH.read_text(encoding="ascii"))["cases"]

ROW_GROUPS = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=4).filter(
    lambda groups: sum(map(sum, groups)) > 0
)
SETTINGS = st.fixed_dictionaries(
    {
        "streams": st.integers(1, 7),
        "block_rows": st.integers(1, 12),
        "batch_size": st.integers(1, 30),
        "seed": st.integers(0, 2**63 - 1),
        "epoch": st.integers(0, 3),
        "shuffle": st.booleans(),
    }
)


def build(row_groups, **chosen):
    return EpochOrder.build(row_groups, **chosen)


def rows_of(order, chosen, *, first_step=0, rank=0, world_size=1):
    """The batches of a rank as lists over its streams, each row read off the order alone."""
    rows = []
    for numbers in order.stream_blocks:
        stream = []
        for number in numbers.tolist():
            blocks = order.blocks
            size = int(blocks.num_rows[number])
            inside = row_order(
                size,
                seed=chosen["seed"],
                epoch=chosen["epoch"],
                block=number,
                shuffle=chosen["shuffle"],
            )
            first = int(blocks.first_row[number])
            place = int(blocks.file[number]), int(blocks.row_group[number])
            inside = range(size) if inside is None else inside.tolist()
            stream += [(*place, first + row) for row in inside]
        rows.append(stream)
    batches = []
    for step in range(first_step, order.num_steps):
        start, shares = order.plan.consumed(step), order.plan.shares(step)
        batches.append(
            [
                rows[s][start[s] : start[s] + shares[s]]
                for s in rank_streams(streams=len(rows), rank=rank, world_size=world_size)
            ]
        )
    return batches


def flat(batches):
    return [[list(row) for rows in batch for row in rows] for batch in batches]


@pytest.mark.parametrize("case", CASES, ids=["small", "unshuffled", "large row group"])
def test_the_order_of_the_data_is_that_of_the_golden_file(case):
    chosen = {key: case[key] for key in ("streams", "block_rows", "batch_size", "seed", "shuffle")}

    epochs = [
        flat(rows_of(build(case["row_groups"], epoch=epoch, **chosen), chosen | {"epoch": epoch}))
        for epoch in range(2)
    ]

    if "epochs" in case:
        assert epochs == case["epochs"]
    else:
        assert [make_order_of_data.digest(batches) for batches in epochs] == case["sha256"]


def test_the_golden_file_is_what_its_generator_writes():
    small = [case for case in make_order_of_data.CASES if sum(map(sum, case["row_groups"])) < 100]

    vectors = [make_order_of_data.vector(case) for case in small]

    assert vectors == CASES[: len(small)]


@given(ROW_GROUPS, SETTINGS)
@settings(max_examples=150, deadline=None)
def test_any_order_is_that_of_the_slow_reference(row_groups, chosen):
    order = build(row_groups, **chosen)

    batches = rows_of(order, chosen)

    assert batches == order_reference.epoch_batches(row_groups, **chosen)


@given(ROW_GROUPS, SETTINGS)
@settings(max_examples=100, deadline=None)
def test_every_row_is_given_exactly_once_an_epoch(row_groups, chosen):
    order = build(row_groups, **chosen)

    given_rows = sorted(row for batch in flat(rows_of(order, chosen)) for row in map(tuple, batch))

    assert given_rows == [
        (file, group, row)
        for file, groups in enumerate(row_groups)
        for group, rows in enumerate(groups)
        for row in range(rows)
    ]


@given(ROW_GROUPS, SETTINGS)
@settings(max_examples=100, deadline=None)
def test_every_batch_but_the_last_is_full(row_groups, chosen):
    order = build(row_groups, **chosen)
    rows, batch_size = sum(map(sum, row_groups)), chosen["batch_size"]

    sizes = [int(order.plan.shares(step).sum()) for step in range(order.num_steps)]

    assert order.num_steps == steps_per_epoch(rows, batch_size)
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == rows


@given(ROW_GROUPS, SETTINGS, st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_any_world_size_gives_the_global_batches_of_one_rank(row_groups, chosen, world_size):
    chosen["streams"] = max(chosen["streams"], world_size)
    order = build(row_groups, **chosen)
    whole = rows_of(order, chosen)

    ranks = [rows_of(order, chosen, rank=rank, world_size=world_size) for rank in range(world_size)]

    # Stream s is the (s // W)-th of rank s mod W: dealing them back must give the same batches.
    for step, batch in enumerate(whole):
        dealt = [ranks[s % world_size][step][s // world_size] for s in range(chosen["streams"])]
        assert dealt == batch


@given(ROW_GROUPS, SETTINGS, st.data())
@settings(max_examples=100, deadline=None)
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(row_groups, chosen, data):
    whole = rows_of(build(row_groups, **chosen), chosen)
    step = data.draw(st.integers(0, len(whole)), label="step")

    order = build(row_groups, **chosen)
    tail = rows_of(order, chosen, first_step=step)

    assert tail == whole[step:]
    for stream, numbers in enumerate(order.stream_blocks):
        place, offset = order.seek(step, stream)
        before = int(order.blocks.num_rows[numbers[:place]].sum()) + offset
        assert before == sum(len(batch[stream]) for batch in whole[:step])


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=12).filter(any), st.integers(1, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_position_costs_streams_not_steps(stream_rows, batch_size):
    plan = plan_batches(stream_rows, batch_size)

    end = plan.consumed(plan.num_steps)

    assert len(plan.phases) <= 2 * len(stream_rows)
    assert end.tolist() == stream_rows
    assert plan.num_steps == steps_per_epoch(sum(stream_rows), batch_size)


def test_shares_are_equal_with_the_remainder_in_stream_order():
    plan = plan_batches([10, 10, 1, 10], 6)

    shares = [plan.shares(step).tolist() for step in range(plan.num_steps)]

    # Stream 2 has one row: after it is dry, six rows are two for each of the others.
    assert shares == [
        [2, 2, 1, 1],
        [2, 2, 0, 2],
        [2, 2, 0, 2],
        [2, 2, 0, 2],
        [2, 2, 0, 2],
        [0, 0, 0, 1],
    ]


def test_who_has_fewer_gives_it_all_and_the_rest_share_again():
    plan = plan_batches([1, 10, 10], 5)

    first = plan.shares(0).tolist()

    assert first == [1, 2, 2]


def test_a_large_row_group_is_one_unit_read_forward():
    row_groups = [[MAX_UNIT_ROWS + 1, 10], [MAX_UNIT_ROWS]]

    blocks = cut_blocks(row_groups, 65_536)

    assert np.diff(blocks.units).tolist() == [3, 1, 1, 1]
    assert blocks.is_forward.tolist() == [True, True, True, False, False, False]
    assert blocks.num_rows.tolist() == [65_536, 65_536, 1, 10, 65_536, 65_536]


def test_epochs_and_seeds_have_orders_of_their_own():
    chosen = {"streams": 4, "block_rows": 8, "batch_size": 16, "shuffle": True}
    positions = list(itertools.product([0, 1], [0, 1]))

    orders = [
        str(rows_of(build([[200]], seed=s, epoch=e, **chosen), {**chosen, "seed": s, "epoch": e}))
        for s, e in positions
    ]

    assert len(set(orders)) == len(positions)


def test_fewer_streams_than_ranks_are_refused():
    with pytest.raises(ConfigError) as caught:
        rank_streams(streams=3, rank=0, world_size=4)

    assert "data.streams is 3, but there are 4 ranks" in str(caught.value)
    assert "at least 4" in caught.value.fix


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_epoch_is_refused(step):
    plan = plan_batches([10, 7], 4)

    with pytest.raises(DataError, match=f"step {step} lies outside the epoch"):
        plan.shares(step)


def test_seek_finds_the_block_and_the_row_in_it():
    sizes = np.array([4, 4, 2])

    places = [seek(sizes, consumed) for consumed in (0, 3, 4, 8, 9, 10)]

    assert places == [(0, 0), (0, 3), (1, 0), (2, 0), (2, 1), (3, 0)]
