"""The order of the data row by row, in plain Python integers, as ARCHITECTURE.md says it."""

import xxhash

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1
MAX_UNIT_ROWS = 131_072


def mix64(x):
    x ^= x >> 30
    x = (x * 0xBF58476D1CE4E5B9) & MASK
    x ^= x >> 27
    x = (x * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def derive(tag, seed, *parts):
    x = xxhash.xxh64_intdigest(tag.encode(), seed)
    for part in parts:
        x = mix64(((x ^ part) + GOLDEN) & MASK)
    return x


def permutation(n, key):
    a = list(range(n))
    for i in reversed(range(1, n)):
        j = (mix64((key + (i + 1) * GOLDEN) & MASK) * (i + 1)) >> 64
        a[i], a[j] = a[j], a[i]
    return a


def blocks_and_units(row_groups, block_rows):
    """Blocks are (file, row group, first row, rows); units are lists of numbers of blocks."""
    blocks, units = [], []
    for file, groups in enumerate(row_groups):
        for group, rows in enumerate(groups):
            numbers = []
            for first in range(0, rows, block_rows):
                numbers.append(len(blocks))
                blocks.append((file, group, first, min(block_rows, rows - first)))
            if rows > MAX_UNIT_ROWS:
                units.append(numbers)
            else:
                units += [[number] for number in numbers]
    return blocks, units


def stream_rows(row_groups, *, streams, block_rows, seed, epoch, shuffle):
    """For each stream its rows (file, row group, row) in order."""
    blocks, units = blocks_and_units(row_groups, block_rows)
    order = list(range(len(units)))
    if shuffle:
        order = permutation(len(units), derive("blocks", seed, epoch))
    out = [[] for _ in range(streams)]
    for place, unit in enumerate(order):
        for number in units[unit]:
            file, group, first, rows = blocks[number]
            inside = list(range(rows))
            if shuffle:
                inside = permutation(rows, derive("rows", seed, epoch, number))
            out[place % streams] += [(file, group, first + row) for row in inside]
    return out


def share(left, need):
    """Equal shares among who has rows left, the remainder in order; who has fewer gives it all."""
    need = min(need, sum(left))
    shares = [0] * len(left)
    among = [stream for stream, rows in enumerate(left) if rows]
    while need:
        quota = {
            stream: need // len(among) + (place < need % len(among))
            for place, stream in enumerate(among)
        }
        short = [stream for stream in among if left[stream] < quota[stream]]
        if not short:
            for stream in among:
                shares[stream] = quota[stream]
            break
        for stream in short:
            shares[stream] = left[stream]
            need -= left[stream]
            among.remove(stream)
    return shares


def epoch_batches(row_groups, *, batch_size, **settings):
    """The global batches of an epoch: for each a list over streams of lists of rows."""
    rows = stream_rows(row_groups, **settings)
    given = [0] * len(rows)
    batches = []
    while any(given[s] < len(rows[s]) for s in range(len(rows))):
        shares = share([len(rows[s]) - given[s] for s in range(len(rows))], batch_size)
        batches.append([rows[s][given[s] : given[s] + n] for s, n in enumerate(shares)])
        given = [done + n for done, n in zip(given, shares, strict=True)]
    return batches
