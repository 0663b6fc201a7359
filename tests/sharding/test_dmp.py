"""Our table under DistributedModelParallel against one process on the concatenated batches."""

# ruff: noqa: ARG002 TorchRec names the arguments

import itertools
import warnings
from dataclasses import dataclass

# First of all: TorchRec's import warns.
from sharding.dmp import UnifiedTable, UnifiedTableSharder, assert_sharded  # isort: skip

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.tensor import DTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import (
    FixedPercentageStorageReservation,
)
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.streamable import Pipelineable

from features.errors import ConfigError, SnapshotError, TrainingError
from features.routing import RowBatch
from sharding.ranks import Ranks
from sharding.table import create_engine
from tests.ranks import run_ranks
from tests.sharding.batches import Task, make_tower, settings
from tests.sharding.shares import (
    copied,
    replay_share,
    share_bounds,
    share_of,
    train_share,
    whole,
)

TABLE_ROWS, BATCH_SIZE = 301, 64
TOLERANCES = {"rowwise_adagrad": 1e-5, "adagrad": 1e-4, "adam": 1e-5, "sgd": 1e-5}


@dataclass
class Click(Pipelineable):
    """A rank's share of a batch; its weight makes the mean of the ranks' losses the global one."""

    rows: RowBatch
    labels: Tensor
    weight: float

    def to(self, device, non_blocking=False):
        return self

    def record_stream(self, stream):
        pass

    def pin_memory(self):
        return self


class Model(nn.Module):
    def __init__(self, config, width, out_width):
        super().__init__()
        self.table = UnifiedTable(TABLE_ROWS, width, config, seed=7)
        self.tower = make_tower(out_width)

    def forward(self, click):
        logits = self.tower(self.table(click.rows)).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits, click.labels, reduction="sum")
        return loss * click.weight, logits


@dataclass
class Case:
    optimizer: str = "rowwise_adagrad"
    width: int = 16
    with_bags: bool = False
    engine: str = "auto"
    plan: str = "by hand"
    output_dtensor: bool = True
    replayed: bool = False

    def clicks(self, ranks, steps=20):
        task = Task(TABLE_ROWS, self.width, self.with_bags)
        task.draw(1)
        for step in range(steps):
            batch, labels = task.draw(BATCH_SIZE)
            first, last = share_bounds(BATCH_SIZE, ranks.world_size, step)[ranks.rank :][:2]
            weight = ranks.world_size / BATCH_SIZE
            yield Click(share_of(batch, first, last), labels[first:last], weight)

    def model(self, ranks):
        config = settings(self.optimizer, engine=self.engine)
        out_width = (7 if self.with_bags else 4) * self.width
        model, sharder = Model(config, self.width, out_width), UnifiedTableSharder()
        env = ShardingEnv.from_process_group(ranks.group)
        env.output_dtensor = self.output_dtensor
        plan = None  # TorchRec's own planner then
        if self.plan == "by hand":
            plan = ShardingPlan({"table": plan_of(model.table, ranks.world_size)})
        return DistributedModelParallel(
            model, env=env, device=torch.device("cpu"), plan=plan, sharders=[sharder]
        )


def plan_of(table, world_size, sharding=None):
    return construct_module_sharding_plan(
        table,
        {"weight": sharding or row_wise(compute_kernel="fused")},
        sharder=UnifiedTableSharder(),
        local_size=world_size,
        world_size=world_size,
        device_type="cpu",
    )


def optimizer_of(model):
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    return CombinedOptimizer(
        [
            model.fused_optimizer,
            KeyedOptimizerWrapper(dense, lambda values: torch.optim.Adam(values, lr=1e-3)),
        ]
    )


def train(model, clicks):
    optimizer = optimizer_of(model)
    for click in clicks:
        optimizer.zero_grad()
        model(click)[0].backward()
        optimizer.step()
    return optimizer


def replay(model, ranks, case):
    """Hands the table made-up output gradients, W times, for DMP means the mean of the ranks."""
    table = assert_sharded(model, "table")

    class Adapter:
        width, settings = table.engine.width, table.engine.settings

        def apply_gradient(self, batch, gradient):
            [group] = table.fused_optimizer.param_groups
            group["lr"] = self.learning_rate
            table.fused_optimizer.step()
            table(batch).wait().backward(gradient * ranks.world_size)

    replay_share(Adapter(), ranks, 200, TABLE_ROWS, case.with_bags)


def train_cases(ranks, cases):
    results = []
    for case in cases:
        model = case.model(ranks)
        engine = assert_sharded(model, "table").engine
        states = [copied(engine)]
        train(model, case.clicks(ranks))
        states.append(copied(engine))
        if case.replayed:
            model = case.model(ranks)
            replay(model, ranks, case)
            states.append(copied(assert_sharded(model, "table").engine))
        results.append((states, engine.name, engine.state_width))
    return results


def one_process(case):
    states = []
    for number in range(3 if case.replayed else 2):
        config = settings(case.optimizer)
        engine = create_engine("fused", TABLE_ROWS, case.width, config, seed=7, threads=1)
        if number == 1:
            task = Task(TABLE_ROWS, case.width, case.with_bags)
            train_share(engine, Ranks.alone(), task, 20, BATCH_SIZE)
        if number == 2:
            replay_share(engine, Ranks.alone(), 200, TABLE_ROWS, case.with_bags)
        states.append(copied(engine))
    return states


CASES = {
    1: [Case("adam", 15, with_bags=True)],
    2: [
        Case("rowwise_adagrad", 15, with_bags=True, replayed=True),
        Case("adagrad", 16, plan="by planner", output_dtensor=False, replayed=True),
        Case("adam", 15, with_bags=True, output_dtensor=False, replayed=True),
        Case("sgd", 16, with_bags=True, replayed=True),
        Case("rowwise_adagrad", 15, with_bags=True, engine="torchrec"),
    ],
    3: [
        Case("adam", 16, plan="by planner", replayed=True),
        Case("rowwise_adagrad", 15, with_bags=True, replayed=True),
        Case("adagrad", 15, with_bags=True),
        Case("sgd", 16),
    ],
    4: [
        Case("rowwise_adagrad", 16, replayed=True),
        Case("adam", 15, with_bags=True),
        Case("adagrad", 15),
        Case("sgd", 16, with_bags=True),
    ],
}


def check_cases(world_size, cases):
    """Holds the ranks' tables against that of one process, state by state."""
    by_rank = run_ranks(world_size, train_cases, cases, timeout_s=900)

    for number, case in enumerate(cases):
        parts = [of_rank[number] for of_rank in by_rank]
        tables = [whole(list(of_ranks)) for of_ranks in zip(*(p[0] for p in parts), strict=True)]
        expected = one_process(case)
        for ours, theirs in zip(tables, expected, strict=True):
            difference = np.abs(ours["weight"] - theirs["weight"]).max()
            assert difference < TOLERANCES[case.optimizer], case
            for name in theirs.keys() - {"weight"}:
                scale = parts[0][2] / case.width if case.optimizer == "rowwise_adagrad" else 1
                np.testing.assert_allclose(ours[name] * scale, theirs[name], rtol=1e-3, atol=1e-8)
        assert np.abs(tables[1]["weight"] - tables[0]["weight"]).max() > 0.005
        engine = "fused" if world_size == 1 else "exchange"
        assert {part[1] for part in parts} == {engine if case.engine == "auto" else case.engine}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("world_size", CASES)
def test_any_number_of_ranks_trains_the_table_of_one_process(world_size):
    check_cases(world_size, CASES[world_size])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_optimizer_and_width_trains_the_table_of_one_process(world_size):
    every = itertools.product(TOLERANCES, [16, 15], [False, True])
    check_cases(world_size, [Case(*each, replayed=True) for each in every])


def _pipelines(ranks):
    case = Case(width=15, with_bags=True)
    plain, piped = case.model(ranks), case.model(ranks)
    train(plain, case.clicks(ranks))
    pipeline = TrainPipelineSparseDist(piped, optimizer_of(piped), torch.device("cpu"))
    clicks = case.clicks(ranks)
    steps = 0
    while True:
        try:
            pipeline.progress(clicks)
        except StopIteration:
            break
        steps += 1
    tables = [assert_sharded(model, "table").engine for model in (plain, piped)]
    same = all(torch.equal(a, tables[1].tensors()[n]) for n, a in tables[0].tensors().items())
    return same, steps, len(pipeline._pipelined_modules)


def test_the_train_pipeline_gives_the_same_bits():
    assert run_ranks(2, _pipelines) == [(True, 20, 1)] * 2


def state_of(model, optimizer):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _save(ranks, directory, case):
    model = case.model(ranks)
    optimizer = train(model, case.clicks(ranks, 5))
    dcp.save(state_of(model, optimizer), checkpoint_id=directory)
    return copied(assert_sharded(model, "table").engine)


def _load(ranks, directory, case):
    model = case.model(ranks)
    optimizer = train(model, case.clicks(ranks, 1))
    state = state_of(model, optimizer)
    kinds = {type(state["model"]["table.weight"])}
    kinds |= {type(tensor) for tensor in state["optimizer"]["state"]["table.weight"].values()}
    dcp.load(state, checkpoint_id=directory)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    engine = assert_sharded(model, "table").engine
    whole_table = np.arange(TABLE_ROWS * case.width, dtype=np.float32).reshape(-1, case.width)
    loaded = copied(engine)
    model.load_state_dict(model.state_dict() | {"table.weight": torch.from_numpy(whole_table)})
    mine = whole_table[engine.first_row :][: engine.num_local_rows]
    sliced = np.array_equal(engine.state()["weight"], mine)
    with pytest.raises(SnapshotError, match=r"table\.weight|weight to load has \[7, 3\]"):
        model.load_state_dict(model.state_dict() | {"table.weight": torch.zeros(7, 3)})
    return loaded, engine.step, kinds, sliced


# Rows of 15 floats lie 16 apart, which a ShardedTensor cannot describe.
@pytest.mark.parametrize(
    ("width", "output_dtensor", "kind"), [(15, False, DTensor), (16, False, ShardedTensor)]
)
def test_state_saved_by_two_ranks_is_loaded_by_three_and_by_none(
    tmp_path, width, output_dtensor, kind
):
    case = Case("adam", width, output_dtensor=output_dtensor)
    saved = whole(run_ranks(2, _save, str(tmp_path), case))

    results = run_ranks(3, _load, str(tmp_path), case)

    loaded = whole([result[0] for result in results])
    alone = {
        "model": {"table.weight": torch.empty(TABLE_ROWS, width)},
        "optimizer": {
            "state": {
                "table.weight": {
                    name: torch.empty(TABLE_ROWS, width) for name in ("momentum1", "momentum2")
                }
            }
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is alone, as it should be
        dcp.load(alone, checkpoint_id=str(tmp_path), no_dist=True)
    states = alone["optimizer"]["state"]["table.weight"]
    for name, array in saved.items():
        read = alone["model"]["table.weight"] if name == "weight" else states[name]
        np.testing.assert_array_equal(loaded[name], array)
        np.testing.assert_array_equal(read, array)
    assert [result[1:] for result in results] == [(5, {kind}, True)] * 3


def _contract(ranks):
    case = Case("adagrad", 16)
    model = case.model(ranks)
    table = assert_sharded(model, "table")
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    assert dense.keys() == {name for name, _ in model.named_parameters() if "tower" in name}
    assert table.weight.shape == (table.engine.num_local_rows, 16)
    assert model.fused_optimizer.state_dict()["state"].keys() == {"table.weight"}

    rows = torch.arange(6).view(2, 3)
    with torch.no_grad():
        vectors = table(rows).wait()
    assert vectors.shape == (2, 3, 16)
    loss = table(rows).wait().sum()
    loss.backward(retain_graph=True)
    assert table.engine.step == 1
    assert table.weight.grad is None
    with pytest.raises(TrainingError, match="second backward"):
        loss.backward()

    model.fused_optimizer.param_groups[0]["lr"] = 0.0
    before = copied(table.engine)["weight"]
    model.fused_optimizer.zero_grad()
    table(rows).wait().sum().backward()
    assert np.array_equal(before, table.engine.state()["weight"])
    return copied(table.engine)["momentum1"][:2].max()


def test_torchrec_finds_what_it_asks_of_a_sharded_module():
    # All ranks looked the first rows up with a gradient of one, and the mean of them is one.
    assert run_ranks(2, _contract)[0] == 2.0


def _one_row(ranks):
    """A model that is the table and nothing else, with one row for all ranks."""
    env = ShardingEnv.from_process_group(ranks.group)
    model = DistributedModelParallel(
        UnifiedTable(1, 8, settings("sgd", learning_rate=0.5)),
        env=env,
        plan=ShardingPlan({"": plan_of(UnifiedTable(1, 8, settings("sgd")), ranks.world_size)}),
        sharders=[UnifiedTableSharder()],
    )
    before = model(torch.zeros(1, dtype=torch.int64)).wait().detach().clone()
    model(torch.zeros(ranks.rank, dtype=torch.int64)).wait().sum().backward()
    after = model(torch.zeros(1, dtype=torch.int64)).wait().detach()
    assert assert_sharded(model).engine.num_local_rows == (ranks.rank == 0)
    assert model.state_dict()["weight"].size() == (1, 8)
    model.load_state_dict(model.state_dict())
    return (before - after)[0, 0].item()


def test_ranks_without_rows_or_samples_take_part():
    # One of two ranks looked the row up, so half its gradient counts.
    assert run_ranks(2, _one_row) == [pytest.approx(0.25)] * 2


def _mistakes(ranks):
    case = Case()
    env = ShardingEnv.from_process_group(ranks.group)
    model = Model(settings("sgd"), 16, 64)
    plan = plan_of(model.table, ranks.world_size)
    options = {"env": env, "device": torch.device("cpu"), "sharders": [UnifiedTableSharder()]}

    with pytest.raises(ConfigError, match="UnifiedTable that is not sharded"):
        DistributedModelParallel(model, plan=ShardingPlan({"tabel": plan}), **options)
    whole_table = DistributedModelParallel(
        Model(settings("sgd"), 16, 64),
        plan=ShardingPlan({"tabel": plan}),
        init_parameters=False,
        init_data_parallel=False,
        **options,
    )
    with pytest.raises(ConfigError, match='"table" is UnifiedTable, which is not sharded'):
        assert_sharded(whole_table, "table")
    with pytest.raises(ConfigError, match="that is not sharded"):
        whole_table(next(case.clicks(ranks)))
    with pytest.raises(ConfigError, match='has no module "tabel"'):
        assert_sharded(whole_table, "tabel")
    foreign = plan_of(model.table, ranks.world_size, table_wise(rank=0, compute_kernel="fused"))
    with pytest.raises(ConfigError, match=r'table: planned "table_wise"'):
        DistributedModelParallel(
            Model(settings("sgd"), 16, 64), plan=ShardingPlan({"table": foreign}), **options
        )
    return True


def test_a_table_that_would_be_replicated_is_refused():
    assert run_ranks(2, _mistakes) == [True, True]


@pytest.mark.parametrize("optimizer", TOLERANCES)
def test_the_planner_plans_the_table_with_its_state(optimizer):
    num_rows, width, world_size = 1_000_001, 32, 4
    model = nn.Sequential(UnifiedTable(num_rows, width, settings(optimizer)))
    topology = Topology(
        world_size=world_size, local_world_size=world_size, compute_device="cpu", ddr_cap=8 << 30
    )
    sharder = UnifiedTableSharder()

    plan = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=64,
        storage_reservation=FixedPercentageStorageReservation(0.15),
    ).plan(model, [sharder])
    [option] = EmbeddingEnumerator(topology=topology, batch_size=64).enumerate(model, [sharder])

    planned = plan.plan["0"]["weight"]
    assert (planned.sharding_type, planned.compute_kernel) == ("row_wise", "fused")
    sizes = [shard.shard_sizes[0] for shard in planned.sharding_spec.shards]
    assert sizes == [250_001, 250_001, 250_001, 249_998]
    state = {"sgd": 0, "rowwise_adagrad": 1, "adagrad": width, "adam": 2 * width}[optimizer]
    expected = 250_001 * 4 * (width + state)
    assert option.shards[0].storage.ddr == pytest.approx(expected, rel=0.02)
