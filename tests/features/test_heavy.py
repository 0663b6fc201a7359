from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.heavy import HeavyCounter, HeavyHitters

steps = st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=8)


def counted(parts, capacity):
    counter = HeavyCounter(capacity)
    for part in parts:
        counter.add(np.array(part, np.uint64))
    return counter


@given(steps)
def test_few_keys_are_counted_exactly(parts):
    found = counted(parts, 31).result(31)

    truth = Counter(key for part in parts for key in part)
    assert dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True)) == truth
    assert found.error == 0


@given(steps, st.integers(1, 12))
def test_a_count_is_never_too_high_and_too_low_by_the_error_at_most(parts, capacity):
    found = counted(parts, capacity).result(capacity)

    truth = Counter(key for part in parts for key in part)
    counts = dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True))
    assert len(counts) <= capacity
    assert found.error * (capacity + 1) <= truth.total()
    for key, count in truth.items():
        assert counts.get(key, 0) <= count <= counts.get(key, 0) + found.error


def test_the_most_frequent_keys_are_returned_and_of_equals_the_smaller_ones():
    counter = counted([[5, 5, 9, 9, 1], [9, 7, 3]], 10)

    assert counter.result(3).keys.tolist() == [1, 5, 9]
    assert counter.result(3).counts.tolist() == [1, 2, 3]
    assert counter.result(0).keys.tolist() == []


def test_skewed_keys_are_found_in_a_hundredth_of_the_memory():
    rng = np.random.default_rng(0)
    parts = [rng.zipf(1.3, 20_000).astype(np.uint64) for _ in range(10)]

    found = counted(parts, 400).result(20)

    truth = Counter(np.concatenate(parts).tolist())
    assert set(found.keys.tolist()) == {key for key, _ in truth.most_common(20)}


def test_those_of_two_features_are_counted_together():
    one = counted([[1, 1, 2]], 10).result(10)
    other = HeavyHitters(keys=np.array([2, 4], np.uint64), counts=np.array([5, 1]), error=3)

    both = one.merged(other)

    assert both.keys.tolist() == [1, 2, 4]
    assert both.counts.tolist() == [2, 6, 1]
    assert both.error == 3


@pytest.mark.parametrize(
    ("keys", "counts"), [([2, 1], [1, 1]), ([1, 1], [1, 1]), ([1], [0]), ([1], [1, 2])]
)
def test_what_does_not_go_together_is_refused(keys, counts):
    with pytest.raises(ValueError, match="frequent keys"):
        HeavyHitters(keys=np.array(keys, np.uint64), counts=np.array(counts), error=0)
