"""UnifiedEmbedding in a stranger's model: looked up, trained both ways, refused."""

import numpy as np
import pytest
import torch

from features.errors import ConfigError, PlanError
from features.schema import FeatureSet
from features.settings import FeatureSettings, FeaturesSettings, TableSettings
from features.statistics import CategoricalStatistics, DenseStatistics, bucket_statistics
from muxtable import UnifiedEmbedding
from tests.trainer.embeddings import FEATURES, FUSED, draw, make, train
from trainer.embedding_arguments import Cardinalities

# Looking up.


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_vectors_are_the_rows_the_layout_names(optimizer):
    embed, ids = make(optimizer), draw()

    vectors = embed.by_feature(ids)

    weight = (embed.weight if optimizer is None else embed.engine.weight).detach()
    user = embed.layout.rows_of(
        "user", embed._reader.column(embed.layout["user"].feature, ids["user"])
    )
    expected = torch.cat([weight[torch.from_numpy(rows)] for rows in user], dim=1)
    torch.testing.assert_close(vectors["user"].detach(), expected)
    assert {name: v.shape[1] for name, v in vectors.items()} == embed.widths
    assert embed.widths == {"user": 6, "item": 3, "tags": 3, "history": 6}
    assert embed.out_width == 18


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_lists_are_pooled_as_declared(optimizer):
    embed = make(optimizer)
    one = {"user": [1, 1], "item": ["a", "a"]}

    pooled = embed({**one, "tags": [[4, 5], []], "history": [[7, 8], [9]]})
    apart = embed({**one, "tags": [[4], [5]], "history": [[7], [8]]})

    pooled, apart = embed.split(pooled), embed.split(apart)
    torch.testing.assert_close(pooled["tags"][0], apart["tags"].sum(0))
    assert not pooled["tags"][1].any()
    torch.testing.assert_close(pooled["history"][0], apart["history"].mean(0))


def test_both_modes_start_from_the_same_rows():
    fused, parameter = make(seed=4), make(None, seed=4)

    vectors = fused(draw()), parameter(draw())

    torch.testing.assert_close(vectors[0], vectors[1])
    assert torch.equal(fused.engine.weight, parameter.weight)
    assert not torch.equal(fused.engine.weight, make(seed=5).engine.weight)


def test_another_hash_seed_reads_other_rows():
    ids = draw()

    vectors = [make(hash_seed=hash_seed)(ids) for hash_seed in (0, 1)]

    assert not torch.equal(vectors[0], vectors[1])


def test_names_alone_take_the_common_number_of_lookups():
    embed = UnifiedEmbedding(["a", "b"], budget=64_000, width=4, lookups=3)

    vectors = embed({"a": [1], "b": ["x"]})

    assert vectors.shape == (1, 24)
    assert embed.layout.rows == 4_000


def test_features_that_are_not_multiplexed_own_rows_by_cardinality():
    embed = UnifiedEmbedding(
        ["a", "b"], rows=100, multiplexed=False, cardinalities={"a": 300, "b": 100}
    )

    regions = {region.name: region.rows for region in embed.layout.regions}

    assert sorted(regions.values()) == [25, 75]


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", None])
def test_a_feature_set_with_statistics_brings_exact_and_bucketized_features(optimizer):
    feature_set = FeatureSet.build(
        None,
        FeaturesSettings(categorical=["city"], dense=["price"]),
        {"price": FeatureSettings(bucketize=2)},
        TableSettings(rows=1),
    )
    dense = DenseStatistics(
        rows=9, missing_count=0, minimum=0, maximum=9, mean=5, std=1, edges=(5.0,)
    )
    statistics = Cardinalities(
        {
            "city": CategoricalStatistics(
                cardinality=2,
                key_class="int",
                rows=9,
                null_count=0,
                num_values=9,
                vocabulary=np.array([10, 20], np.uint64),
            ),
            "price": bucket_statistics(dense),
        },
        {"price": dense},
    )
    embed = UnifiedEmbedding(
        feature_set, rows=100, width=4, statistics=statistics, optimizer=optimizer
    )

    vectors = embed({"city": [10, 20, 30, 40], "price": torch.tensor([1.0, 4.9, 5.0, 7.0])})

    by_feature = embed.split(vectors)
    assert not torch.equal(by_feature["city"][0], by_feature["city"][1])
    assert torch.equal(by_feature["city"][2], by_feature["city"][3])
    assert torch.equal(by_feature["price"][0], by_feature["price"][1])
    assert not torch.equal(by_feature["price"][1], by_feature["price"][2])


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_batches_without_samples_pass_through(optimizer):
    embed = make(optimizer)

    vectors = embed({"user": [], "item": [], "tags": [], "history": []})

    assert vectors.shape == (0, 18)


# Training.


@pytest.mark.parametrize("optimizer", FUSED)
def test_fused_training_needs_no_parameters_and_lowers_the_loss(optimizer):
    embed = make(optimizer, learning_rate=0.05)

    before, after = train(embed, 1), train(embed, 30)

    assert list(embed.parameters()) == []
    assert embed.engine.step == 31
    assert after < before


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch.optim.Adagrad's own
@pytest.mark.parametrize(
    ("factory", "sparse"),
    [
        (lambda p: torch.optim.SGD(p, 0.05), True),
        (lambda p: torch.optim.Adagrad(p, 0.1), True),
        (lambda p: torch.optim.SparseAdam(list(p), 0.05), True),
        (lambda p: torch.optim.SGD(p, 0.05), False),
        (lambda p: torch.optim.Adam(p, 0.05), False),
        (lambda p: torch.optim.AdamW(p, 0.05), False),
        (lambda p: torch.optim.RMSprop(p, 0.01), False),
    ],
    ids=["sgd", "adagrad", "sparse-adam", "dense-sgd", "dense-adam", "dense-adamw", "dense-rms"],
)
def test_a_parameter_is_trained_by_torch_optimizers(factory, sparse):
    embed = make(None, sparse=sparse)
    optimizer = factory(embed.parameters())

    before, after = train(embed, 1, optimizer=optimizer), train(embed, 30, optimizer=optimizer)

    assert [name for name, _ in embed.named_parameters()] == ["weight"]
    assert embed.weight.grad.is_sparse == sparse
    assert after < before


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch.optim.Adagrad's own
@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.02)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, 0.02, eps=1e-8)),
        ("adam", lambda p: torch.optim.SparseAdam(list(p), 0.02)),
    ],
)
def test_fused_training_equals_the_parameter_under_torch(name, factory):
    fused = make(name, learning_rate=0.02)
    parameter = make(None, sparse=True)

    train(fused, 10)
    train(parameter, 10, optimizer=factory(parameter.parameters()))

    # Adagrad and Adam divide by the root of sums, which amplifies rounding.
    torch.testing.assert_close(fused.engine.weight, parameter.weight.detach(), atol=1e-4, rtol=0)


def test_the_dense_parameter_passes_gradcheck():
    embed = make(None, dtype=torch.float64, rows=12)
    ids = draw()

    def of_weight(weight):
        return torch.func.functional_call(embed, {"weight": weight}, (ids,))

    assert torch.autograd.gradcheck(of_weight, [embed.weight])
    assert embed(ids).dtype == torch.float64


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", None])
def test_evaluation_trains_nothing_in_the_fused_mode(optimizer):
    embed = make(optimizer)

    embed.eval()
    in_eval = embed(draw())
    embed.train()
    in_training = embed(draw())

    assert torch.equal(in_eval, in_training)
    assert in_eval.requires_grad == (optimizer is None)
    assert in_training.requires_grad


def test_learning_rates_follow_a_schedule():
    embed, frozen = make("sgd", learning_rate=1.0), make("sgd", learning_rate=1.0)
    start = frozen.engine.weight.clone()

    embed.learning_rate = 0.5
    frozen.learning_rate = 0.0
    train(frozen)

    assert embed.learning_rate == embed.engine.learning_rate == 0.5
    assert torch.equal(frozen.engine.weight, start)


# Steps of a sequence.


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_steps_are_the_vectors_of_single_values(optimizer):
    embed = make(optimizer)

    steps = embed.steps("history", [[5, 6, 7], [], [8]])

    single = embed.steps("history", [[6], [7], [8]]).vectors
    assert steps.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert steps.vectors.shape == (3, 2, 6)
    torch.testing.assert_close(steps.vectors[0], single[:2, 0])
    torch.testing.assert_close(steps.vectors[2, 0], single[2, 0])
    assert not steps.vectors[~steps.mask].any()


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_the_mean_of_the_steps_is_the_pooled_vector(optimizer):
    embed, ids = make(optimizer), draw()

    steps = embed.steps("history", ids["history"])

    mean = steps.vectors.sum(1) / steps.mask.sum(1, keepdim=True)
    torch.testing.assert_close(mean, embed.by_feature(ids)["history"])


def test_a_null_list_is_one_step_and_null_elements_are_none():
    embed = make()

    steps = embed.steps("history", [None, [None, 4], []])

    assert steps.mask.tolist() == [[True], [True], [False]]


def test_gradients_reach_the_rows_through_the_steps():
    fused, parameter = make("sgd", learning_rate=0.1), make(None)

    for embed in (fused, parameter):
        steps = embed.steps("history", [[5, 6], [6]])
        (steps.vectors * torch.arange(6.0)).sum().backward()
    torch.optim.SGD(parameter.parameters(), 0.1).step()

    torch.testing.assert_close(fused.engine.weight, parameter.weight.detach())


def test_steps_of_empty_lists_alone_are_empty():
    embed = make()

    steps = embed.steps("history", [[], []])

    assert steps.vectors.shape == (2, 0, 6)
    assert steps.mask.shape == (2, 0)


@pytest.mark.parametrize("name", ["user", "unknown"])
def test_steps_of_what_is_no_sequence_are_refused(name):
    with pytest.raises(ConfigError, match="these are: tags, history"):
        make().steps(name, [[1]])


def test_the_printed_form_says_rows_width_and_mode():
    printed = repr(make()), repr(make(None, sparse=True))

    assert "200 rows x 3, rowwise_adagrad, user: 6" in printed[0]
    assert "sparse=True" in printed[1]


# Arguments.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": None}, ConfigError, "neither budget nor rows"),
        ({"budget": "1 MB"}, ConfigError, "give one of them"),
        ({"rows": None, "budget": "many"}, ConfigError, "budget is 'many'"),
        ({"rows": None, "budget": 3}, PlanError, "less than one row"),
        ({"rows": 0}, ConfigError, "rows is 0"),
        ({"rows": 1}, PlanError, "rows are left"),
        ({"width": 0}, ConfigError, "width is 0"),
        ({"width": 1.5}, ConfigError, "width is 1.5"),
        ({"hash_seed": -1}, ConfigError, "hash_seed is -1"),
        ({"learning_rate": 0.0}, ConfigError, "learning_rate is 0.0"),
        ({"optimizer": "lamb"}, ConfigError, "optimizer is 'lamb'"),
        ({"features": {}}, ConfigError, "not among the features"),
        ({"features": [], "lists": {}, "sequences": {}}, ConfigError, "no features"),
        ({"features": "user"}, ConfigError, "is the string"),
        ({"features": ["a", "a"], "lists": {}, "sequences": {}}, ConfigError, "twice"),
        (
            {"features": FEATURES, "lookups": "auto"},
            ConfigError,
            'lookups is "auto", which only a job',
        ),
        ({"features": {**FEATURES, "user": 0}}, ConfigError, 'lookups of "user" is 0'),
        ({"features": {**FEATURES, "user": "2"}}, ConfigError, "lookups of \"user\" is '2'"),
        ({"lists": {"tags": "max"}}, ConfigError, "pooling of \"tags\" is 'max'"),
        ({"lists": {"tag": "sum"}}, ConfigError, 'lists names "tag"'),
        ({"sequences": {"history": 0}}, ConfigError, 'max_length of "history" is 0'),
        ({"sequences": {"tags": 3}}, ConfigError, "as list and as sequence"),
        ({"sparse": True}, ConfigError, "belong to a parameter"),
        ({"dtype": torch.float64}, ConfigError, "belong to a parameter"),
        ({"optimizer": None, "dtype": torch.int64}, ConfigError, "dtype is torch.int64"),
        ({"multiplexed": False}, ConfigError, "cardinality, which is unknown"),
        ({"multiplexed": False, "cardinalities": {"user": 1}}, ConfigError, "does not name"),
        ({"engine": "torchrec", "optimizer": "adam"}, ConfigError, "no Adam"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        make(**change)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_senseless_cardinalities_are_refused(value):
    with pytest.raises(ConfigError, match=r'cardinalities\["a"\]'):
        UnifiedEmbedding(["a"], rows=100, multiplexed=False, cardinalities={"a": value})


def test_a_parameter_has_no_fused_learning_rate():
    embed = make(None)

    with pytest.raises(ConfigError, match="no learning_rate"):
        embed.learning_rate = 0.1


def test_the_torchrec_engine_serves_the_module_too():
    fused, torchrec = make(), make(engine="torchrec")

    for embed in (fused, torchrec):
        train(embed, 5)

    torch.testing.assert_close(fused.engine.weight, torchrec.engine.weight, atol=1e-5, rtol=0)
