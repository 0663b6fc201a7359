from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sharding.bounds import shard_bounds


@given(rows=st.integers(1, 2**40), world_size=st.integers(1, 300))
def test_every_row_has_one_owner_and_blocks_are_ceil(rows, world_size):
    bounds = shard_bounds(rows, world_size)

    block = -(-rows // world_size)
    sizes = [end - first for first, end in pairwise(bounds)]
    assert (bounds[0], bounds[-1], len(sizes)) == (0, rows, world_size)
    assert all(size in (block, 0) for size in sizes[:-1] if size != rows % block)
    assert sizes == sorted(sizes, reverse=True)


def test_fewer_rows_than_ranks_leave_the_last_ranks_empty():
    assert shard_bounds(3, 5) == [0, 1, 2, 3, 3, 3]
    assert shard_bounds(10, 4) == [0, 3, 6, 9, 10]
