import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.collisions import (
    Collisions,
    expected_collisions,
    forecast,
    mean_co_residents,
    measured_collisions,
)
from features.routing import Layout, Placement, Region
from features.schema import Feature


def layout_of(num_rows, num_lookups=1, hash_seed=0, vocabulary=None):
    one = Feature(
        name="x", kind="categorical", columns=("x",), salt_name="x", num_lookups=num_lookups
    )
    kind = "shared" if vocabulary is None else "exact"
    return Layout.assemble(
        width=1,
        hash_seed=hash_seed,
        regions=[Region(name="r", kind=kind, base=0, rows=num_rows, width=1)],
        placements=[Placement(feature=one, region="r", key_class="int")],
        vocabularies={} if vocabulary is None else {"r": vocabulary},
    )


@pytest.mark.parametrize("num_lookups", [1, 2, 3])
@pytest.mark.parametrize("load", [0.1, 1.0, 3.0])
def test_the_forecast_is_what_hashing_does(num_lookups, load):
    cardinality, num_rows = int(20_000 * load), 20_000
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 2**64, cardinality, dtype=np.uint64)

    measured = [
        measured_collisions(layout_of(num_rows, num_lookups, seed), "x", keys) for seed in range(5)
    ]

    co_residents, in_all = expected_collisions(cardinality, num_rows, num_lookups)
    assert np.mean([m.co_residents for m in measured]) == pytest.approx(co_residents, rel=0.05)
    assert np.mean([m.in_all_lookups for m in measured]) == pytest.approx(in_all, rel=0.1, abs=2e-3)


def test_a_million_values_and_a_second_lookup_leave_few_that_always_collide():
    one = expected_collisions(1_000_000, 10_000_000, 1)
    two = expected_collisions(1_000_000, 10_000_000, 2)

    assert one[0] == two[0] == pytest.approx(0.1, rel=1e-5)
    assert one[1] == pytest.approx(1 - np.exp(-0.1), rel=1e-5)
    assert two[1] == pytest.approx(one[1] ** 2)


@given(st.integers(0, 10**9), st.integers(1, 2**40), st.integers(1, 8))
def test_a_forecast_is_a_probability_at_any_size(cardinality, num_rows, num_lookups):
    co_residents, in_all = expected_collisions(cardinality, num_rows, num_lookups)

    assert co_residents >= 0
    assert 0 <= in_all <= 1
    assert (co_residents == 0) == (cardinality <= 1)


def test_one_row_is_shared_by_all_for_certain():
    assert expected_collisions(3, 1, 2) == (2, 1.0)
    assert expected_collisions(1, 1, 2) == (0, 0.0)


def test_exact_features_have_no_collisions():
    vocabulary = np.arange(10, dtype=np.uint64)
    layout = layout_of(24, 2, vocabulary=vocabulary)

    (expected,) = forecast(layout, {"x": 10})
    measured = measured_collisions(layout, "x", vocabulary)

    for one in (expected, measured):
        assert (one.cardinality, one.co_residents, one.values_in_all_lookups) == (10, 0, 0)


def test_unseen_values_of_an_exact_feature_meet_in_its_row_for_them():
    layout = layout_of(12, vocabulary=np.arange(10, dtype=np.uint64))

    measured = measured_collisions(layout, "x", np.arange(12, dtype=np.uint64))

    assert measured.co_residents == pytest.approx(2 / 12)
    assert measured.values_in_all_lookups == pytest.approx(2)


def test_a_repeated_key_is_one_value_and_no_keys_are_no_collisions():
    layout = layout_of(1000, 2)

    repeated = measured_collisions(layout, "x", np.array([3, 3, 3], np.uint64))
    nothing = measured_collisions(layout, "x", np.empty(0, np.uint64))

    assert (repeated.cardinality, repeated.co_residents) == (1, 0)
    assert (nothing.cardinality, nothing.in_all_lookups) == (0, 0)


def test_the_mean_is_over_values_not_features():
    few = Collisions(feature="a", cardinality=1, co_residents=4, in_all_lookups=0)
    many = Collisions(feature="b", cardinality=3, co_residents=0, in_all_lookups=0)

    assert mean_co_residents([few, many]) == 1.0
    assert mean_co_residents([]) == 0.0
