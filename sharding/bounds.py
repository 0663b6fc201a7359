"""Which rank owns which rows: consecutive ranges, in the order of the ranks."""


def shard_bounds(rows: int, world_size: int) -> list[int]:
    """Returns world_size + 1 ends: rank r owns the rows ends[r] .. ends[r + 1] - 1.

    Every rank has ceil(rows / world_size) rows but the last ones, which have what is left, maybe
    none: the blocks of TorchRec's row-wise sharding and of torch's DTensor.
    """
    block = -(-rows // world_size)
    return [min(rank * block, rows) for rank in range(world_size + 1)]
