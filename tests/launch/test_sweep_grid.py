import pytest

from features.errors import ConfigError
from launch.sweep.grid import Axes, make_points
from launch.sweep.options import parse_budgets, parse_counts, parse_grid, parse_methods
from tests.trainer.clicks import clicks_job

TREE = {
    "data": {"train": "a", "test": "b", "label": "click"},
    "features": {"categorical": ["user", "item"]},
    "table": {"rows": 300, "width": 15, "lookups": 2},
    "run": {"dir": "runs/mine", "checkpoint_every": 7},
}


def points(tree=TREE, **axes):
    return make_points(tree, "job.toml", Axes(**{"seeds": (0,), "more": {}, **axes}))


def settings(**axes):
    return [point.setting for point in points(**axes)]


def test_without_axes_the_points_are_the_job_by_seed():
    found = points(seeds=(3, 4))

    assert [(p.seed, p.hash_seed, p.job.train.seed, p.job.table.hash_seed) for p in found] == [
        (3, 3, 3, 3),
        (4, 4, 4, 4),
    ]
    assert {p.job.table.width for p in found} == {15}
    assert len({p.setting for p in found}) == 1


def test_hash_seeds_of_their_own_are_crossed_with_the_seeds():
    found = points(seeds=(0, 1), hash_seeds=(5, 6))

    assert [(p.seed, p.hash_seed) for p in found] == [(0, 5), (0, 6), (1, 5), (1, 6)]


def test_every_axis_is_crossed_with_every_other():
    found = settings(multiplexed=(True, False), budgets=("1 kB", "2 kB"), lookups=(1, 2))

    assert len(found) == 8
    assert len(set(found)) == 8


def test_rows_of_the_job_are_swept_at_their_bytes():
    found = points(lookups=(1, 2))

    assert [(p.job.table.width, p.job.table.budget, p.job.table.rows) for p in found] == [
        (30, "18000 B", None),
        (15, "18000 B", None),
    ]


def test_rows_can_vary_themselves():
    found = points(more=parse_grid(["table.rows=100,200"]))

    assert [(p.job.table.rows, p.job.table.budget) for p in found] == [(100, None), (200, None)]


def test_a_budget_takes_the_place_of_rows():
    (point,) = points(budgets=("9 kB",))

    assert (point.job.table.budget, point.job.table.rows) == ("9 kB", None)


def test_lookups_keep_the_columns_of_an_embedding():
    found = settings(methods=("unified", "qr"), lookups=(1, 2, 3, 10))

    assert [(s.method, s.lookups, s.width) for s in found] == [
        ("unified", 1, 30),
        ("unified", 2, 15),
        ("unified", 3, 10),
        ("unified", 10, 3),
        ("qr", 1, 30),
        ("qr", 2, 30),
        ("qr", 3, 30),
        ("qr", 10, 30),
    ]
    assert {s.columns for s in found} == {30}


def test_widths_of_their_own_are_crossed_with_the_lookups():
    found = settings(lookups=(1, 2), widths=(4, 8))

    assert [(s.lookups, s.width) for s in found] == [(1, 4), (1, 8), (2, 4), (2, 8)]


def test_axes_that_mean_nothing_to_a_method_make_no_further_points():
    found = settings(
        methods=("hash", "exact", "dhe"),
        multiplexed=(True, False),
        budgets=("8 kB", "9 kB"),
        lookups=(1, 2),
    )

    assert [s.method for s in found] == ["hash"] * 4 + ["exact"] + ["dhe"] * 4
    (exact,) = [s for s in found if s.method == "exact"]
    assert (exact.multiplexed, exact.budget, exact.lookups, exact.width) == (None, None, 1, 30)


def test_any_key_of_the_job_can_vary():
    more = parse_grid(["table.optimizer=adam,sgd", "tower.hidden=[8],[8, 4]"])

    found = points(more=more)

    assert [(p.job.table.optimizer, p.job.tower.hidden) for p in found] == [
        ("adam", [8]),
        ("adam", [8, 4]),
        ("sgd", [8]),
        ("sgd", [8, 4]),
    ]


def test_a_method_has_its_own_learning_rate_unless_the_job_names_one():
    named = {**TREE, "table": {**TREE["table"], "learning_rate": 0.2}}

    rates = [p.job.table.learning_rate for p in points(methods=("dhe", "unified"))]
    given = [p.job.table.learning_rate for p in points(named, methods=("dhe", "unified"))]

    assert rates == [0.001, 0.05]
    assert given == [0.2, 0.2]


def test_points_share_nothing_with_the_run_of_the_job():
    (point,) = points()

    assert point.job.run.dir is None
    assert point.job.run.checkpoint_every == 7
    assert point.job.train.threads == 1


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parse_methods, "unified,robbe", 'no method "robbe"'),
        (parse_methods, "unified,", "empty value"),
        (parse_budgets, "158 kB,12", '"12" is no size'),
        (lambda text: parse_counts(text, "--lookups"), "1,0", '"0" is no whole number'),
        (lambda text: parse_grid([text]), "table.optimizer", "has no values"),
        (lambda text: parse_grid([text]), "table.width=1,2", "an option of its own"),
        (lambda text: parse_grid([text]), "run.keep=1,2", "does not change what is trained"),
    ],
)
def test_mistakes_in_the_words_are_named(parse, text, said):
    with pytest.raises(ConfigError, match=said):
        parse(text)


def test_more_lookups_than_columns_are_refused():
    with pytest.raises(ConfigError, match="31 lookups for each value, and an embedding has 30"):
        points(lookups=(1, 31))


def test_a_job_without_rows_to_compare_on_is_refused():
    with pytest.raises(ConfigError, match="no rows to compare tables on"):
        points({**TREE, "data": {"train": "a", "label": "click"}})


def test_an_unknown_key_of_the_grid_is_named():
    with pytest.raises(ConfigError, match=r'unknown key "table.optimiser"'):
        points(more=parse_grid(["table.optimiser=adam,sgd"]))


def test_a_job_written_out_gives_the_same_points():
    tree = clicks_job().model_dump(mode="json", exclude_unset=True)

    found = points(tree, methods=("hash",))

    assert found[0].setting.width == 8


def test_lookups_that_the_data_decides_are_refused():
    with pytest.raises(ConfigError, match=r"table\.lookups.* is \"auto\""):
        points({**TREE, "table": {**TREE["table"], "lookups": "auto"}})
